//! The metrics as text, in the format that Prometheus reads (OpenMetrics 1.0).
//!
//! Numbers that the parts of the server keep anyway are not counted twice: they are asked for when
//! somebody wants them, and come here as [`Gauges`] and [`Volumes`]. A latency histogram is written
//! for those procedures only that were called.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::{BOUNDS, BUCKETS, Metrics, Sum};

/// What the text is, for HTTP.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Numbers of this moment, of parts that every server has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauges {
    /// Connections that are open.
    pub connections: usize,
    /// Calls that wait for a thread of the pool.
    pub queue: usize,
    /// Bytes that peers make the server hold.
    pub memory: usize,
    /// The most that they may.
    pub memory_limit: usize,
    /// How often a connection had to wait for memory.
    pub memory_waits: u64,
    /// Files that are open.
    pub nodes: usize,
    /// Look-ups that found their file open.
    pub node_hits: u64,
    /// Files that had to be opened.
    pub node_misses: u64,
    /// How often files, directories or file systems were flushed.
    pub flushes: u64,
}

/// Numbers of the volumes, where there are any.
#[derive(Clone, Debug, Default)]
pub struct Volumes {
    /// Each volume.
    pub volumes: Vec<Volume>,
    /// Entries of the trash that wait to be removed.
    pub trash_entries: u64,
    /// Files and directories removed.
    pub trash_removed: u64,
    /// Bytes that this gave back.
    pub trash_freed: u64,
    /// Files of the registry that cannot be read.
    pub faults: usize,
    /// The disk's size and what is free of it, in bytes.
    pub disk: Option<(u64, u64)>,
    /// The capacities of all volumes together, in bytes.
    pub promised: u64,
    /// What they may be together, in bytes, if that is limited.
    pub allowed: Option<u64>,
}

/// Numbers of one volume.
#[derive(Clone, Debug, Default)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Bytes in it.
    pub used: u64,
    /// Bytes that it may hold.
    pub capacity: u64,
    /// Files and directories in it.
    pub inodes: u64,
    /// Calls for it.
    pub calls: u64,
    /// Bytes read from it.
    pub read: u64,
    /// Bytes written to it.
    pub written: u64,
}

/// Everything that is told at one moment.
pub struct Scrape {
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// What is.
    pub gauges: Gauges,
    /// What the volumes are.
    pub volumes: Option<Volumes>,
}

impl Scrape {
    /// Writes the text, with what others `add` to the registry. Takes time with thousands of
    /// volumes, and no lock that calls need.
    ///
    /// # Errors
    /// The encoder refuses something.
    pub fn text(self, add: impl FnOnce(&mut Registry)) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.sub_registry_with_prefix("berth").register_collector(Box::new(self));
        add(&mut registry);
        let mut out = String::new();
        text::encode(&mut out, &registry)?;
        Ok(out)
    }
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").field("gauges", &self.gauges).finish_non_exhaustive()
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        self.process(&mut out)?;
        self.calls(&mut out)?;
        self.connections(&mut out)?;
        self.nodes(&mut out)?;
        let help =
            "Flushes of files, directories and file systems; calls that wait together share one.";
        out.counter("flushes", help, None, self.gauges.flushes)?;
        self.volumes.as_ref().map_or(Ok(()), |volumes| volumes.write(&mut out))
    }
}

impl Scrape {
    fn process(&self, out: &mut Out<'_>) -> fmt::Result {
        let mut info =
            out.0.encode_descriptor("build", "What this program is.", None, MetricType::Info)?;
        info.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        let start = seconds_since_1970(self.metrics.started());
        let help = "When the process was started, since 1970.";
        out.float("start_time", help, Unit::Seconds, start)
    }

    fn calls(&self, out: &mut Out<'_>) -> fmt::Result {
        let sums = self.metrics.sums();
        let each = |value: fn(&Sum) -> u64| {
            sums.iter().map(move |sum| (labels(sum), value(sum))).collect::<Vec<_>>()
        };
        let help = "Calls that were carried out, repeated ones not included.";
        out.counters("rpc_calls", help, None, &each(|sum| sum.calls))?;
        let failures: Vec<_> = sums.iter().flat_map(failures).collect();
        let help = "Calls that were answered with a status that is no success.";
        out.counters("rpc_errors", help, None, &failures)?;
        let help = "Bytes of the calls.";
        out.counters("rpc_received", help, Some(Unit::Bytes), &each(|sum| sum.received))?;
        let help = "Bytes of their replies.";
        out.counters("rpc_sent", help, Some(Unit::Bytes), &each(|sum| sum.sent))?;
        let help = "From the moment a call is read until its reply is handed to the socket, waiting \
                    for a thread included.";
        out.histograms("rpc_latency", help, sums.iter().filter(|sum| sum.calls > 0))?;
        let help = "Calls that got the answer of their first copy, because they came again.";
        out.counter("rpc_replayed", help, None, self.metrics.replayed.get())
    }

    fn connections(&self, out: &mut Out<'_>) -> fmt::Result {
        out.gauge("connections", "Connections that are open.", None, self.gauges.connections)?;
        let help = "Connections that were accepted, the server's own checks of itself included.";
        out.counter("connections_accepted", help, None, self.metrics.accepted.get())?;
        let help = "Connections that were closed at once, because there were too many.";
        out.counter("connections_refused", help, None, self.metrics.refused.get())?;
        let help = "Connections that were closed because others took their places.";
        out.counter("connections_displaced", help, None, self.metrics.displaced.get())?;
        self.memory(out)?;
        let help = "Calls that wait for a thread on which they may sleep.";
        out.gauge("pool_queue", help, None, self.gauges.queue)
    }

    fn memory(&self, out: &mut Out<'_>) -> fmt::Result {
        let help = "Records, calls and replies that are held for clients.";
        out.gauge("memory_held", help, Some(Unit::Bytes), self.gauges.memory)?;
        let help = "The most that may be held for clients, --memory.";
        out.gauge("memory_limit", help, Some(Unit::Bytes), self.gauges.memory_limit)?;
        let help = "How often a connection had to wait until memory was free.";
        out.counter("memory_waits", help, None, self.gauges.memory_waits)
    }

    fn nodes(&self, out: &mut Out<'_>) -> fmt::Result {
        out.gauge("open_nodes", "Files that are kept open.", None, self.gauges.nodes)?;
        let help = "Look-ups that found their file open.";
        out.counter("node_cache_hits", help, None, self.gauges.node_hits)?;
        let help = "Files that were opened because they were not.";
        out.counter("node_cache_misses", help, None, self.gauges.node_misses)
    }
}

impl Volumes {
    fn write(&self, out: &mut Out<'_>) -> fmt::Result {
        let bytes = || Some(Unit::Bytes);
        let help = "Bytes that a volume's content takes on the disk.";
        out.gauges("volume_used", help, bytes(), self.each(|volume| volume.used))?;
        let help = "Bytes that a volume may hold.";
        out.gauges("volume_capacity", help, bytes(), self.each(|volume| volume.capacity))?;
        let help = "Files, directories and so on in a volume.";
        out.gauges("volume_inodes_used", help, None, self.each(|volume| volume.inodes))?;
        let help = "NFS calls for a volume.";
        out.counters("volume_calls", help, None, &self.each(|volume| volume.calls))?;
        let help = "Bytes that were read from a volume.";
        out.counters("volume_read", help, bytes(), &self.each(|volume| volume.read))?;
        let help = "Bytes that were written to a volume.";
        out.counters("volume_written", help, bytes(), &self.each(|volume| volume.written))?;
        self.write_trash(out)?;
        let help = "Files of the registry that cannot be read; their volumes are not served.";
        out.gauge("registry_faults", help, None, self.faults)?;
        let help = "Capacities of all volumes together.";
        out.gauge("capacity_promised", help, bytes(), self.promised)?;
        if let Some(allowed) = self.allowed {
            let help = "What they may be together (--overcommit).";
            out.gauge("capacity_allowed", help, bytes(), allowed)?;
        }
        let Some((size, free)) = self.disk else { return Ok(()) };
        out.gauge("disk_size", "Size of the volumes' disk.", bytes(), size)?;
        out.gauge("disk_free", "What is free of it.", bytes(), free)
    }

    fn write_trash(&self, out: &mut Out<'_>) -> fmt::Result {
        let help = "Entries of the trash that wait to be removed.";
        out.gauge("trash_entries", help, None, self.trash_entries)?;
        let help = "Files, directories and so on that were removed from it.";
        out.counter("trash_removed", help, None, self.trash_removed)?;
        let help = "Bytes that this gave back.";
        out.counter("trash_freed", help, Some(Unit::Bytes), self.trash_freed)
    }

    fn each(&self, value: fn(&Volume) -> u64) -> Vec<([(&str, &str); 1], u64)> {
        self.volumes.iter().map(|volume| ([("volume", &*volume.name)], value(volume))).collect()
    }
}

/// The labels of a procedure.
fn labels(sum: &Sum) -> [(&'static str, &'static str); 2] {
    let (program, procedure) = sum.procedure.names();
    [("program", program), ("procedure", procedure)]
}

/// The labels and the counts of a procedure's failures.
fn failures(sum: &Sum) -> impl Iterator<Item = ([(&'static str, &'static str); 3], u64)> {
    let [program, procedure] = labels(sum);
    sum.failures().map(move |(status, n)| ([program, procedure, ("status", status.name())], n))
}

fn seconds_since_1970(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[allow(clippy::cast_precision_loss)] // of a duration in nanoseconds nobody sees the last digits
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Writes metrics of each kind.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn counter(&mut self, name: &str, help: &str, unit: Option<Unit>, value: u64) -> fmt::Result {
        let kind = MetricType::Counter;
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        count(&mut metric, value)
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        value: impl TryInto<u64>,
    ) -> fmt::Result {
        let kind = MetricType::Gauge;
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        metric.encode_gauge(&value.try_into().unwrap_or(u64::MAX))
    }

    fn float(&mut self, name: &str, help: &str, unit: Unit, value: f64) -> fmt::Result {
        let kind = MetricType::Gauge;
        self.0.encode_descriptor(name, help, Some(&unit), kind)?.encode_gauge(&value)
    }

    fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: &[([(&str, &str); N], u64)],
    ) -> fmt::Result {
        let kind = MetricType::Counter;
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in values {
            count(&mut family.encode_family(labels)?, *value)?;
        }
        Ok(())
    }

    fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: Vec<([(&str, &str); N], u64)>,
    ) -> fmt::Result {
        let kind = MetricType::Gauge;
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn histograms<'s>(
        &mut self,
        name: &str,
        help: &str,
        sums: impl Iterator<Item = &'s Sum>,
    ) -> fmt::Result {
        let (kind, unit) = (MetricType::Histogram, Unit::Seconds);
        let mut family = self.0.encode_descriptor(name, help, Some(&unit), kind)?;
        for sum in sums {
            let mut buckets = [(f64::INFINITY, 0); BUCKETS];
            for (n, bucket) in buckets.iter_mut().enumerate() {
                let bound = BOUNDS.get(n).map_or(f64::INFINITY, |bound| seconds(*bound));
                *bucket = (bound, sum.buckets[n]);
            }
            let (labels, total) = (labels(sum), seconds(sum.nanoseconds));
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(total, sum.calls, &buckets, None)?;
        }
        Ok(())
    }
}

fn count(metric: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Answered;
    use crate::telemetry::metrics::names::{Procedure, Status};
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn text_of(metrics: Metrics, volumes: Option<Volumes>) -> String {
        Scrape { volumes, ..scrape_of(metrics) }.text(|_| ()).unwrap()
    }

    fn scrape_of(metrics: Metrics) -> Scrape {
        let gauges = Gauges {
            connections: 3,
            queue: 4,
            nodes: 5,
            node_hits: 6,
            node_misses: 7,
            flushes: 8,
            memory: 10,
            memory_limit: 11,
            memory_waits: 12,
        };
        Scrape { metrics: Arc::new(metrics), gauges, volumes: None }
    }

    #[track_caller]
    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }

    #[test]
    fn calls_are_told_by_procedure() {
        let metrics = Metrics::new();
        let call = Answered {
            procedure: Procedure::of(100_003, 3),
            status: Status::of(2),
            received: 100,
            sent: 32,
        };
        metrics.count(Duration::from_micros(15), call);
        metrics.count(Duration::from_secs(60), Answered { status: Status::OK, ..call });
        let text = text_of(metrics, None);
        let lookup = r#"program="nfs",procedure="LOOKUP""#;
        has(&text, &format!("berth_rpc_calls_total{{{lookup}}} 2"));
        has(&text, &format!("berth_rpc_errors_total{{{lookup},status=\"NOENT\"}} 1"));
        has(&text, &format!("berth_rpc_received_bytes_total{{{lookup}}} 200"));
        has(&text, &format!("berth_rpc_sent_bytes_total{{{lookup}}} 64"));
        let bucket = |bound, n| {
            let line = format!("berth_rpc_latency_seconds_bucket{{le=\"{bound}\",{lookup}}} {n}");
            has(&text, &line);
        };
        bucket("0.00001", 0);
        bucket("0.00002", 1);
        bucket("5.0", 1);
        bucket("+Inf", 2);
        has(&text, &format!("berth_rpc_latency_seconds_count{{{lookup}}} 2"));
        has(&text, &format!("berth_rpc_latency_seconds_sum{{{lookup}}} 60.000015"));
        has(&text, r#"berth_rpc_calls_total{program="nfs",procedure="COMMIT"} 0"#);
        assert!(!text.contains(r#"latency_seconds_count{program="nfs",procedure="COMMIT""#));
    }

    #[test]
    fn the_server_is_told() {
        let metrics = Metrics::new();
        metrics.accepted.add(9);
        metrics.refused.add(8);
        metrics.displaced.add(7);
        metrics.replayed.add(2);
        let text = text_of(metrics, None);
        for line in [
            "berth_connections 3",
            "berth_connections_accepted_total 9",
            "berth_connections_refused_total 8",
            "berth_connections_displaced_total 7",
            "berth_memory_held_bytes 10",
            "berth_memory_limit_bytes 11",
            "berth_memory_waits_total 12",
            "berth_rpc_replayed_total 2",
            "berth_pool_queue 4",
            "berth_open_nodes 5",
            "berth_node_cache_hits_total 6",
            "berth_node_cache_misses_total 7",
            "berth_flushes_total 8",
        ] {
            has(&text, line);
        }
        let version = env!("CARGO_PKG_VERSION");
        has(&text, &format!("berth_build_info{{version=\"{version}\"}} 1"));
        assert!(text.contains("berth_start_time_seconds 1"), "{text}");
        assert!(!text.contains("volume"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_metric_says_what_it_is_once() {
        let text = text_of(Metrics::new(), Some(Volumes::default()));
        let mut types: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
        let helps = text.lines().filter(|line| line.starts_with("# HELP berth_")).count();
        assert_eq!(helps, types.len());
        types.sort_unstable();
        types.dedup();
        assert_eq!(helps, types.len());
    }

    #[test]
    fn every_metric_stands_in_the_manual() {
        let volumes = Volumes { disk: Some((2, 1)), allowed: Some(1), ..Volumes::default() };
        let scrape = Scrape { volumes: Some(volumes), ..scrape_of(Metrics::new()) };
        // A family without a member is not written.
        let provisioner = crate::provisioner::metrics::Metrics::default();
        provisioner.provisioned("class", false, Duration::ZERO);
        provisioner.provision_failed("class", false);
        provisioner.deleted("class", Duration::ZERO);
        provisioner.delete_failed("class");
        let text = scrape.text(|registry| provisioner.register(registry)).unwrap();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let told: BTreeSet<_> = types.filter_map(|line| line.split(' ').next()).collect();
        let page = crate::manual::page("metrics").unwrap();
        let rows = page.text.lines().filter_map(|line| line.strip_prefix("| `"));
        let listed: BTreeSet<_> = rows.filter_map(|row| row.split('`').next()).collect();
        assert_eq!(listed, told);
    }

    #[test]
    fn volumes_are_told_by_name() {
        let volume = Volume {
            name: "a \"b\\ <c>".into(),
            used: 1,
            capacity: 2,
            inodes: 3,
            calls: 4,
            read: 5,
            written: 6,
        };
        let volumes = Volumes {
            volumes: vec![volume],
            trash_entries: 7,
            trash_removed: 8,
            trash_freed: 9,
            faults: 10,
            disk: Some((12, 11)),
            promised: 13,
            allowed: Some(14),
        };
        let text = text_of(Metrics::new(), Some(volumes));
        let name = r#"{volume="a \"b\\ <c>"}"#;
        for (metric, value) in [
            (format!("berth_volume_used_bytes{name}"), 1),
            (format!("berth_volume_capacity_bytes{name}"), 2),
            (format!("berth_volume_inodes_used{name}"), 3),
            (format!("berth_volume_calls_total{name}"), 4),
            (format!("berth_volume_read_bytes_total{name}"), 5),
            (format!("berth_volume_written_bytes_total{name}"), 6),
            ("berth_trash_entries".into(), 7),
            ("berth_trash_removed_total".into(), 8),
            ("berth_trash_freed_bytes_total".into(), 9),
            ("berth_registry_faults".into(), 10),
            ("berth_disk_free_bytes".into(), 11),
            ("berth_disk_size_bytes".into(), 12),
            ("berth_capacity_promised_bytes".into(), 13),
            ("berth_capacity_allowed_bytes".into(), 14),
        ] {
            has(&text, &format!("{metric} {value}"));
        }
    }
}
