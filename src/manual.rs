//! The manual: one page for each topic.
//!
//! The pages are Markdown files, which can be read in the source, in the documentation of this
//! crate, and with `berth manual TOPIC`, also in a container image without a shell.

/// The page on a topic.
pub fn page(topic: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.topic == topic)
}

/// A page of the manual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The topic, as in `berth manual TOPIC`.
    pub topic: &'static str,
    /// A description in a few words.
    pub about: &'static str,
    /// The text, in Markdown.
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
