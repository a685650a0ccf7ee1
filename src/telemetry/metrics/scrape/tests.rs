use super::*;
use crate::telemetry::metrics::Answered;
use crate::telemetry::metrics::names::StatusLabel;
use std::time::Duration;

fn text_of(metrics: Metrics, volumes: Option<VolumesSample>) -> String {
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
    Scrape { metrics: Arc::new(metrics), gauges, volumes }.text(|_| ()).unwrap()
}

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
}

#[test]
fn calls_are_labelled_by_procedure() {
    let metrics = Metrics::new([("nfs", "LOOKUP"), ("nfs", "COMMIT")]);
    let call = Answered {
        procedure: metrics.labels().find("nfs", "LOOKUP"),
        status: StatusLabel::of(2),
        received: 100,
        sent: 32,
    };
    metrics.count(Duration::from_micros(15), call);
    metrics.count(Duration::from_secs(60), Answered { status: StatusLabel::OK, ..call });
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
fn the_server_is_described() {
    let metrics = Metrics::default();
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
    let text = text_of(Metrics::default(), Some(VolumesSample::default()));
    let mut types: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    let helps = text.lines().filter(|line| line.starts_with("# HELP berth_")).count();
    assert_eq!(helps, types.len());
    types.sort_unstable();
    types.dedup();
    assert_eq!(helps, types.len());
}

#[test]
fn volumes_are_labelled_by_name() {
    let volume = VolumeSample {
        name: "a \"b\\ <c>".into(),
        used: 1,
        capacity: 2,
        inodes: 3,
        calls: 4,
        read: 5,
        written: 6,
    };
    let volumes = VolumesSample {
        volumes: vec![volume],
        trash_entries: 7,
        trash_removed: 8,
        trash_freed: 9,
        faults: 10,
        disk: Some(DiskSample { size_bytes: 12, free_bytes: 11 }),
        promised: 13,
        allowed: Some(14),
    };
    let text = text_of(Metrics::default(), Some(volumes));
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
