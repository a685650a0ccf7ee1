//! Conversations with an API server.
