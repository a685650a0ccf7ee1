//! The metrics as text, in the format that Prometheus reads (OpenMetrics 1.0).
//!
//! Numbers that the parts of the server keep anyway are not counted twice: a scrape reads them, as
//! [`Gauges`] and [`VolumesSample`]. Latency histograms are written only for procedures that were
//! called.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::{BOUNDS, BUCKETS, Metrics, Sum};

/// The content type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Current values of parts that every server has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauges {
    /// Open connections.
    pub connections: usize,
    /// Calls that wait for a thread of the pool.
    pub queue: usize,
    /// Bytes of calls and replies that the server holds for peers.
    pub memory: usize,
    /// The limit of these bytes.
    pub memory_limit: usize,
    /// Number of times that a connection waited for memory.
    pub memory_waits: u64,
    /// Files that are kept open.
    pub nodes: usize,
    /// Lookups that found their file open.
    pub node_hits: u64,
    /// Lookups that had to open their file.
    pub node_misses: u64,
    /// Flushes of files, directories and file systems.
    pub flushes: u64,
}

/// Current values of the volumes.
#[derive(Clone, Debug, Default)]
pub struct VolumesSample {
    /// Each volume.
    pub volumes: Vec<VolumeSample>,
    /// Entries of the trash that wait to be removed.
    pub trash_entries: u64,
    /// Files and directories removed from the trash since the start.
    pub trash_removed: u64,
    /// Bytes freed by that.
    pub trash_freed: u64,
    /// Files of the registry that cannot be read.
    pub faults: usize,
    /// The disk, if its statistics could be read.
    pub disk: Option<DiskSample>,
    /// The sum of the capacities of all volumes, in bytes.
    pub promised: u64,
    /// The limit of that sum, in bytes, if there is one.
    pub allowed: Option<u64>,
}

/// The size and the free space of the volumes' disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskSample {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Free bytes.
    pub free_bytes: u64,
}

/// Current values of one volume.
#[derive(Clone, Debug, Default)]
pub struct VolumeSample {
    /// The name of the volume.
    pub name: String,
    /// Bytes that its content uses.
    pub used: u64,
    /// Its capacity in bytes.
    pub capacity: u64,
    /// Inodes that its content uses.
    pub inodes: u64,
    /// NFS calls for it.
    pub calls: u64,
    /// Bytes read from it.
    pub read: u64,
    /// Bytes written to it.
    pub written: u64,
}

/// The source of all metrics of one scrape.
pub struct Scrape {
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The current values.
    pub gauges: Gauges,
    /// The volumes; `None` if there are none, or if their disk does not respond.
    pub volumes: Option<VolumesSample>,
}

impl Scrape {
    /// Returns the text, with the metrics that `add` registers. With thousands of volumes it takes
    /// noticeable time, but it takes no lock that calls need.
    ///
    /// # Errors
    /// The encoder fails.
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
            out.0.encode_descriptor("build", "Version of the program.", None, MetricType::Info)?;
        info.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        let start = seconds_since_1970(self.metrics.started());
        let help = "Start of the process, in seconds since 1970.";
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
        out.gauge("connections", "Open connections.", None, self.gauges.connections)?;
        let help = "Connections that were accepted, including the server's own readiness checks.";
        out.counter("connections_accepted", help, None, self.metrics.accepted.get())?;
        let help = "Connections that were closed at once because there were too many.";
        out.counter("connections_refused", help, None, self.metrics.refused.get())?;
        let help = "Idle connections that were closed to make room for new ones.";
        out.counter("connections_displaced", help, None, self.metrics.displaced.get())?;
        self.memory(out)?;
        let help = "Calls that wait for a thread of the pool.";
        out.gauge("pool_queue", help, None, self.gauges.queue)
    }

    fn memory(&self, out: &mut Out<'_>) -> fmt::Result {
        let help = "Memory of calls and replies that the server holds for clients.";
        out.gauge("memory_held", help, Some(Unit::Bytes), self.gauges.memory)?;
        let help = "Limit of the memory held for clients (--memory).";
        out.gauge("memory_limit", help, Some(Unit::Bytes), self.gauges.memory_limit)?;
        let help = "Number of times that a connection waited for memory.";
        out.counter("memory_waits", help, None, self.gauges.memory_waits)
    }

    fn nodes(&self, out: &mut Out<'_>) -> fmt::Result {
        out.gauge("open_nodes", "Files that are kept open.", None, self.gauges.nodes)?;
        let help = "Lookups that found their file open.";
        out.counter("node_cache_hits", help, None, self.gauges.node_hits)?;
        let help = "Lookups that had to open their file.";
        out.counter("node_cache_misses", help, None, self.gauges.node_misses)
    }
}

impl VolumesSample {
    fn write(&self, out: &mut Out<'_>) -> fmt::Result {
        let bytes = || Some(Unit::Bytes);
        let help = "Bytes that the content of a volume uses on the disk.";
        out.gauges("volume_used", help, bytes(), self.each(|volume| volume.used))?;
        let help = "Capacity of a volume.";
        out.gauges("volume_capacity", help, bytes(), self.each(|volume| volume.capacity))?;
        let help = "Inodes that the content of a volume uses.";
        out.gauges("volume_inodes_used", help, None, self.each(|volume| volume.inodes))?;
        let help = "NFS calls for a volume.";
        out.counters("volume_calls", help, None, &self.each(|volume| volume.calls))?;
        let help = "Bytes read from a volume.";
        out.counters("volume_read", help, bytes(), &self.each(|volume| volume.read))?;
        let help = "Bytes written to a volume.";
        out.counters("volume_written", help, bytes(), &self.each(|volume| volume.written))?;
        self.write_trash(out)?;
        let help = "Files of the registry that cannot be read; their volumes are not served.";
        out.gauge("registry_faults", help, None, self.faults)?;
        let help = "Sum of the capacities of all volumes.";
        out.gauge("capacity_promised", help, bytes(), self.promised)?;
        if let Some(allowed) = self.allowed {
            let help = "Limit of the sum of all capacities (--overcommit).";
            out.gauge("capacity_allowed", help, bytes(), allowed)?;
        }
        let Some(disk) = self.disk else { return Ok(()) };
        out.gauge("disk_size", "Size of the volumes' disk.", bytes(), disk.size_bytes)?;
        out.gauge("disk_free", "Free space of the volumes' disk.", bytes(), disk.free_bytes)
    }

    fn write_trash(&self, out: &mut Out<'_>) -> fmt::Result {
        let help = "Entries of the trash that wait to be removed.";
        out.gauge("trash_entries", help, None, self.trash_entries)?;
        let help = "Files and directories removed from the trash.";
        out.counter("trash_removed", help, None, self.trash_removed)?;
        let help = "Bytes freed by removing from the trash.";
        out.counter("trash_freed", help, Some(Unit::Bytes), self.trash_freed)
    }

    fn each(&self, value: fn(&VolumeSample) -> u64) -> Vec<([(&str, &str); 1], u64)> {
        self.volumes.iter().map(|volume| ([("volume", &*volume.name)], value(volume))).collect()
    }
}

/// The labels of a procedure.
fn labels(sum: &Sum) -> [(&'static str, &'static str); 2] {
    let (program, procedure) = sum.labels;
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

#[allow(clippy::cast_precision_loss)] // the last digits of nanoseconds do not matter
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
mod tests;
