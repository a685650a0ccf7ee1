//! Volumes: directories that are made, copied and removed as a whole.
//! Here are the parts that work on any tree of files.

pub mod copy;
pub mod progress;
pub mod trash;
pub mod tree;
