//! The provisioner's metrics, with the names that dashboards of provisioners know.
//!
//! [`ProvisionerMetrics::register`] registers them where Prometheus reads them.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of durations, in seconds: a claim takes milliseconds, a clone minutes.
const BOUNDS: [f64; 12] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0];

/// Labels of metrics of claims.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ClaimLabels {
    class: String,
    /// The kind of the data source: empty, or `PersistentVolumeClaim`.
    source: &'static str,
}

/// Labels of metrics of PVs.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ClassLabels {
    class: String,
}

type DurationFamily<L> = Family<L, Histogram, fn() -> Histogram>;

/// The provisioner's metrics.
#[derive(Debug)]
pub struct ProvisionerMetrics {
    provisioned: Family<ClaimLabels, Counter>,
    provision_failed: Family<ClaimLabels, Counter>,
    provision_seconds: DurationFamily<ClaimLabels>,
    deleted: Family<ClassLabels, Counter>,
    delete_failed: Family<ClassLabels, Counter>,
    delete_seconds: DurationFamily<ClassLabels>,
    expanded: Counter,
    expand_failed: Counter,
    leader: Gauge,
    volumes_without_pv: Gauge,
    pvs_without_volume: Gauge,
    events_lost: Counter,
}

impl Default for ProvisionerMetrics {
    fn default() -> Self {
        let durations: fn() -> Histogram = || Histogram::new(BOUNDS);
        Self {
            provisioned: Family::default(),
            provision_failed: Family::default(),
            provision_seconds: Family::new_with_constructor(durations),
            deleted: Family::default(),
            delete_failed: Family::default(),
            delete_seconds: Family::new_with_constructor(durations),
            expanded: Counter::default(),
            expand_failed: Counter::default(),
            leader: Gauge::default(),
            volumes_without_pv: Gauge::default(),
            pvs_without_volume: Gauge::default(),
            events_lost: Counter::default(),
        }
    }
}

impl ProvisionerMetrics {
    /// Registers the metrics under their names.
    pub fn register(&self, registry: &mut Registry) {
        let library = registry.sub_registry_with_prefix("controller");
        let mut add = |name: &str, help: &str, metric: &Family<ClaimLabels, Counter>| {
            library.register(name, help, metric.clone());
        };
        let claims = "persistentvolumeclaim_provision";
        add(claims, "Volumes provisioned", &self.provisioned);
        add(
            "persistentvolumeclaim_provision_failed",
            "Failed attempts to provision a volume",
            &self.provision_failed,
        );
        let seconds = "persistentvolumeclaim_provision_duration_seconds";
        library.register(seconds, "Time to provision a volume", self.provision_seconds.clone());
        library.register("persistentvolume_delete", "Volumes reclaimed", self.deleted.clone());
        let failed = "persistentvolume_delete_failed";
        library.register(failed, "Failed attempts to reclaim a volume", self.delete_failed.clone());
        let seconds = "persistentvolume_delete_duration_seconds";
        library.register(seconds, "Time to reclaim a volume", self.delete_seconds.clone());
        let own = registry.sub_registry_with_prefix("berth_provisioner");
        own.register("expand", "Volumes expanded", self.expanded.clone());
        own.register(
            "expand_failed",
            "Failed attempts to expand a volume",
            self.expand_failed.clone(),
        );
        own.register("leader", "Whether this server provisions", self.leader.clone());
        let help = "Volumes of claims that have no PersistentVolume";
        own.register("volumes_without_pv", help, self.volumes_without_pv.clone());
        let help = "PersistentVolumes whose volume is missing";
        own.register("pvs_without_volume", help, self.pvs_without_volume.clone());
        let help = "Events that could not be queued or sent";
        own.register("events_lost", help, self.events_lost.clone());
    }

    /// Counts a claim that got its volume; `took` is how long that took.
    pub fn provisioned(&self, class: &str, clone: bool, took: Duration) {
        let labels = ClaimLabels::new(class, clone);
        self.provisioned.get_or_create(&labels).inc();
        self.provision_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a failed attempt to provision a claim.
    pub fn provision_failed(&self, class: &str, clone: bool) {
        self.provision_failed.get_or_create(&ClaimLabels::new(class, clone)).inc();
    }

    /// Counts a reclaimed volume; `took` is how long that took.
    pub fn deleted(&self, class: &str, took: Duration) {
        let labels = ClassLabels { class: class.into() };
        self.deleted.get_or_create(&labels).inc();
        self.delete_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a failed attempt to reclaim a volume.
    pub fn delete_failed(&self, class: &str) {
        self.delete_failed.get_or_create(&ClassLabels { class: class.into() }).inc();
    }

    /// Counts an expansion, or a failed attempt.
    pub fn expanded(&self, done: bool) {
        if done {
            self.expanded.inc()
        } else {
            self.expand_failed.inc()
        };
    }

    /// Sets whether this server provisions.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Sets the numbers of orphans.
    pub fn orphans(&self, volumes: usize, pvs: usize) {
        self.volumes_without_pv.set(i64::try_from(volumes).unwrap_or(i64::MAX));
        self.pvs_without_volume.set(i64::try_from(pvs).unwrap_or(i64::MAX));
    }

    /// How many events were lost.
    #[cfg(test)]
    pub fn events_lost(&self) -> u64 {
        self.events_lost.get()
    }

    /// Counts an event that could not be queued or sent.
    pub fn event_lost(&self) {
        self.events_lost.inc();
    }
}

impl ClaimLabels {
    fn new(class: &str, clone: bool) -> Self {
        Self { class: class.into(), source: if clone { "PersistentVolumeClaim" } else { "" } }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn dashboards_find_their_names() {
        let metrics = ProvisionerMetrics::default();
        metrics.provisioned("fast", false, Duration::from_millis(20));
        metrics.provision_failed("fast", true);
        metrics.deleted("fast", Duration::from_millis(20));
        metrics.delete_failed("fast");
        metrics.orphans(2, 1);
        metrics.event_lost();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "controller_persistentvolumeclaim_provision_total{class=\"fast\",source=\"\"} 1",
            "controller_persistentvolumeclaim_provision_failed_total{class=\"fast\",source=\"Persist",
            "controller_persistentvolumeclaim_provision_duration_seconds_count{class=\"fast\"",
            "controller_persistentvolume_delete_total{class=\"fast\"} 1",
            "controller_persistentvolume_delete_failed_total{class=\"fast\"} 1",
            "controller_persistentvolume_delete_duration_seconds_count{class=\"fast\"} 1",
            "berth_provisioner_volumes_without_pv 2",
            "berth_provisioner_pvs_without_volume 1",
            "berth_provisioner_events_lost_total 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
