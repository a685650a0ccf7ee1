//! The manual: one page for each topic.
//!
//! The pages are Markdown files, which can be read in the source, in the documentation of this
//! crate, and with `berth manual TOPIC`, also in a container image without a shell.

/// The page on a topic.
pub fn page(topic: &str) -> Option<&'static ManualPage> {
    PAGES.iter().find(|page| page.topic == topic)
}

/// A page of the manual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManualPage {
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
        pub const PAGES: &[ManualPage] = &[$(ManualPage {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Duration;

    use crate::provisioner;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::metrics::scrape::{DiskSample, Gauges, Scrape, VolumesSample};

    #[test]
    fn every_metric_is_in_the_table() {
        let volumes = VolumesSample {
            disk: Some(DiskSample::default()),
            allowed: Some(1),
            ..VolumesSample::default()
        };
        let (metrics, gauges) = (Arc::new(Metrics::default()), Gauges::default());
        let scrape = Scrape { metrics, gauges, volumes: Some(volumes) };
        // A family without a member is not written.
        let provisioner = provisioner::metrics::ProvisionerMetrics::default();
        provisioner.provisioned("class", false, Duration::ZERO);
        provisioner.provision_failed("class", false);
        provisioner.deleted("class", Duration::ZERO);
        provisioner.delete_failed("class");
        let text = scrape.text(|registry| provisioner.register(registry)).unwrap();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let written: BTreeSet<_> = types.filter_map(|line| line.split(' ').next()).collect();
        let page = super::page("metrics").unwrap();
        let rows = page.text.lines().filter_map(|line| line.strip_prefix("| `"));
        let listed: BTreeSet<_> = rows.filter_map(|row| row.split('`').next()).collect();
        assert_eq!(listed, written);
    }
}
