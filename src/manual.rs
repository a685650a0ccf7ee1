//! The manual, one page for each topic, as `berth manual TOPIC` prints it.
//!
//! The pages are Markdown files beside this one, so that they can be read in the source, in the
//! documentation of this crate, and from the program where there is neither a shell nor a network.

/// A page of the manual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The topic, by which it is asked for.
    pub topic: &'static str,
    /// What it is about, in a few words.
    pub about: &'static str,
    /// The page, in Markdown.
    pub text: &'static str,
}

macro_rules! pages {
    ($($topic:ident: $about:literal,)*) => {
        /// All pages, in the order in which a reader needs them.
        pub const PAGES: &[Page] = &[$(Page {
            topic: stringify!($topic),
            about: $about,
            text: include_str!(concat!("manual/", stringify!($topic), ".md")),
        }),*];

        $(#[doc = include_str!(concat!("manual/", stringify!($topic), ".md"))]
        pub mod $topic {})*
    };
}

pages! {
    serve: "serving directories: options, networks, privileges, handles, signals, health",
    exports: "the exports file",
    volumes: "volumes: commands, capacity, crashes, what is on the disk",
    kubernetes: "claims, StorageClasses, reclaiming, options of the provisioner",
    security: "who can do what; reporting a vulnerability",
    sizing: "processors, memory, open files, disks",
    troubleshooting: "by symptom: claims and pods, mounting, files, the server",
    metrics: "metrics for Prometheus, and what to watch",
    api: "the HTTP API behind `berth volume`",
    migration: "from other provisioners, to other disks",
}
