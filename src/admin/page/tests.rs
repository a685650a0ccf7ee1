use super::*;
use crate::admin::rates::EVERY;
use crate::telemetry::metrics::Throughput;
use crate::volume::DiskSpace;
use crate::volume::name::{VolumeId, VolumeName};
use crate::volume::overcommit::CommittedCapacity;
use crate::volume::progress::ProgressSnapshot;
use crate::volume::spec::{Spec, VolumePhase, VolumeStatus};
use std::time::Instant;

const GIB: u64 = 1 << 30;

fn view() -> PageContext {
    PageContext {
        ready: Ok(()),
        uptime: Duration::from_secs(90_000),
        listen: vec!["10.0.0.1:2049".parse().unwrap()],
        gauges: Gauges { connections: 12, queue: 3, nodes: 4567, ..Gauges::default() },
        accepted: 1234,
        refused: 0,
        rates: Rates::default(),
        nonce: "123".into(),
        all: false,
    }
}

fn status(name: &str, used: u64, capacity: u64) -> VolumeStatus {
    let name = VolumeName::new(name).unwrap();
    VolumeStatus {
        path: format!("/{name}"),
        spec: Spec::new(name, VolumeId::new("id").unwrap(), capacity),
        directory: "/data".into(),
        created: jiff::Timestamp::UNIX_EPOCH,
        copy_of: None,
        access: None,
        full: false,
        phase: VolumePhase::Ready,
        used,
        free: capacity - used,
        inodes_used: 1,
        mounted_by: Vec::new(),
        traffic: Default::default(),
    }
}

fn page(view: &PageContext, found: VolumesSnapshot) -> String {
    render(view, &PageContent::Loaded { exports: Vec::new(), volumes: Some(found) })
}

fn page_of(volumes: Vec<VolumeStatus>) -> String {
    page(&view(), VolumesSnapshot { volumes, ..VolumesSnapshot::default() })
}

#[track_caller]
fn has(page: &str, part: &str) {
    assert!(page.contains(part), "{part} is not in\n{page}");
}

#[test]
fn a_volume_is_shown_with_its_figures() {
    let mut status = status("data", 3 * GIB, 4 * GIB);
    status.inodes_used = 12_345;
    status.spec.inodes = Some(20_000);
    status.mounted_by = ["10.0.0.1", "10.0.0.2", "fd00::3", "10.0.0.4", "10.0.0.5"]
        .map(|client| client.parse().unwrap())
        .to_vec();
    (status.traffic.read, status.traffic.written) = (5 << 20, 7 << 10);
    let page = page_of(vec![status]);
    for part in [
        "<bdi>data</bdi>",
        "<b>3.0 GiB</b> of 4.0 GiB <i>75 %</i>",
        "value=\"75\"",
        "12,345 <span class=\"of\">of 20,000</span>",
        "10.0.0.1, 10.0.0.2, fd00::3 and 2 more<",
        ">5.0 MiB<",
        ">7.0 KiB<",
        "<span class=\"good\">ready</span>",
    ] {
        has(&page, part);
    }
}

#[test]
fn all_text_is_escaped() {
    let script = "<script>alert(1)<&\"'";
    let mut lost = status(script, 0, 1);
    lost.phase = VolumePhase::Lost { message: script.into() };
    let mut cloning = status("b", 0, 1);
    cloning.phase = VolumePhase::Cloning {
        from: VolumeName::new(script).unwrap(),
        progress: ProgressSnapshot { bytes_done: 1, bytes_total: 3, ..ProgressSnapshot::default() },
    };
    let mut failed = status("c", 0, 1);
    failed.phase = VolumePhase::Failed { message: script.into() };
    let found = VolumesSnapshot {
        volumes: vec![lost, cloning, failed],
        trash: trash::TrashStatus { current: Some(script.into()), ..Default::default() },
        faults: vec![script.into()],
        disk: None,
        promise: CommittedCapacity::default(),
    };
    let exports = vec![StaticExport {
        path: script.into(),
        directory: script.into(),
        clients: vec![script.into()],
        disk: Some(DiskSpace { size_bytes: 1, free_bytes: 1 }),
    }];
    let view = PageContext { ready: Err(script.into()), ..view() };
    let page = render(&view, &PageContent::Loaded { exports, volumes: Some(found) });
    assert!(!page.contains("<script"), "{page}");
    let shown = page.matches("&lt;script&gt;alert(1)&lt;&amp;&quot;'").count();
    // In the order of the fields above: name, label of its bar, message, origin, message, trash,
    // fault; path, label of its bar, directory, client; the reason why it is not ready.
    assert_eq!(shown, 12, "{page}");
    has(&page, ", 33 %</td>");
}

#[test]
fn failed_volumes_come_first_and_then_the_fullest() {
    let mut lost = status("lost", 0, 10);
    lost.phase = VolumePhase::Lost { message: "it is not there".into() };
    let page = page_of(vec![
        status("a-half", 5, 10),
        status("b-full", 10, 10),
        status("c-half", 50, 100),
        lost,
    ]);
    let at = |name: &str| page.find(&format!("<bdi>{name}</bdi>")).unwrap();
    assert!([at("lost"), at("b-full"), at("a-half"), at("c-half")].is_sorted());
    has(&page, "class=\"bar full\"");
    has(&page, "class=\"bar roomy\"");
}

#[test]
fn only_the_fullest_of_many_volumes_are_shown_unless_all_are_requested() {
    let many: Vec<_> = (0..10_000).map(|n| status(&format!("v{n}"), n, 10_000)).collect();
    let page_of = |all| {
        page(
            &PageContext { all, ..view() },
            VolumesSnapshot { volumes: many.clone(), ..VolumesSnapshot::default() },
        )
    };
    let fullest = page_of(false);
    assert_eq!(fullest.matches("scope=\"row\"").count(), 200);
    has(&fullest, "<bdi>v9999</bdi>");
    assert!(!fullest.contains("<bdi>v9799</bdi>"));
    has(&fullest, "9,800 more are not shown: <a href=\"?all\">");
    has(&fullest, "http-equiv=\"refresh\"");
    let all = page_of(true);
    assert_eq!(all.matches("scope=\"row\"").count(), 10_000);
    assert!(!all.contains("not shown") && !all.contains("refresh"));
}

#[test]
fn disk_capacities_and_trash_are_shown() {
    let found = VolumesSnapshot {
        volumes: vec![status("a", GIB, 6 * GIB), status("b", 2 * GIB, 6 * GIB)],
        trash: trash::TrashStatus {
            waiting: 2,
            removed: 34,
            freed: 5 * GIB,
            current: Some("x".into()),
            ..trash::TrashStatus::default()
        },
        disk: Some(DiskSpace { size_bytes: 8 * GIB, free_bytes: GIB }),
        faults: vec!["cannot read registry/x".into()],
        promise: CommittedCapacity {
            promised: 12 * GIB,
            disk: Some(8 * GIB),
            overcommit: Some(200),
        },
    };
    let page = page(&view(), found);
    for part in [
        "<b>7.0 GiB</b> of 8.0 GiB <i>87 %</i>",
        "class=\"bar nearly\"",
        "<dd>12.0 GiB<small>150 % of the disk, the limit is 200 %</small>",
        "<dt>Used by volumes</dt><dd>3.0 GiB</dd>",
        "<dd>2 waiting<small>34 removed, 5.0 GiB freed; removing <bdi>x</bdi></small>",
        "<li>cannot read registry/x</li>",
    ] {
        has(&page, part);
    }
}

#[test]
fn health_and_traffic_are_shown() {
    let (mut rates, start) = (Rates::default(), Instant::now());
    rates.sample(start, Throughput::default());
    let counted = Throughput { calls: 30_000, read: 6 << 20, written: 3 << 30 };
    rates.sample(start + EVERY, counted);
    let view =
        PageContext { rates, refused: 3, ready: Err("the server is stopping".into()), ..view() };
    let page = render(&view, &PageContent::Unavailable);
    for part in [
        "Not ready: the server is stopping",
        "up 1 d 1 h",
        "NFS on 10.0.0.1:2049",
        "<dd>10,000/s<svg",
        "<dd>2.0 MiB/s<svg",
        "<dd>1.0 GiB/s<svg",
        "<dd>12<small>1,234 accepted, <span class=\"bad\">3 refused</span>",
        "<dd>4,567<small>3 calls queued",
        "A disk does not respond",
    ] {
        has(&page, part);
    }
    let ready = render(&self::view(), &PageContent::Starting);
    has(&ready, "role=\"status\">Ready</p>");
    has(&ready, "The server is starting.");
    assert!(!ready.contains("refused"));
}

#[test]
fn without_volumes_the_exports_are_listed() {
    let export = StaticExport {
        path: "/data".into(),
        directory: "/srv/data".into(),
        clients: vec!["10.0.0.0/8".into(), "*".into()],
        disk: None,
    };
    let page = render(&view(), &PageContent::Loaded { exports: vec![export], volumes: None });
    for part in ["<bdi>/data</bdi>", "<bdi>/srv/data</bdi>", ">10.0.0.0/8, *<", ">unknown<"] {
        has(&page, part);
    }
    assert!(!page.contains("Volumes") && !page.contains("Space"), "{page}");
    let page = page_of(Vec::new());
    has(&page, "There are no volumes yet.");
    assert!(!page.contains("Exports"));
}

#[test]
fn the_page_has_no_external_resources() {
    let page = page_of(vec![status("a", 1, 2)]);
    for word in ["http://", "https://", "//", "@import", "url(", "<script", "<img", "style=\""] {
        assert!(!page.contains(word), "{word}");
    }
}

#[test]
fn every_element_is_closed() {
    let mut lost = status("lost", 0, 10);
    lost.phase = VolumePhase::Lost { message: "gone".into() };
    let found = VolumesSnapshot {
        volumes: vec![status("a", 1, 2), lost],
        faults: vec!["a fault".into()],
        disk: Some(DiskSpace { size_bytes: 2, free_bytes: 1 }),
        ..VolumesSnapshot::default()
    };
    let export = StaticExport { path: "/x".into(), ..StaticExport::default() };
    let content = PageContent::Loaded { exports: vec![export], volumes: Some(found) };
    let page = render(&view(), &content);
    let mut open = Vec::new();
    for tag in page.split('<').skip(2).map(|rest| rest.split('>').next().unwrap()) {
        let name = tag.split([' ', '\n']).next().unwrap();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "in <{tag}>"),
            None if name == "meta" || tag.ends_with('/') => {}
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?} are not closed");
}

/// The page of a busy server.
fn sample() -> String {
    let (mut rates, start) = (Rates::default(), Instant::now());
    let mut counted = Throughput::default();
    for n in 0..80u32 {
        let wave = (f64::from(n) / 7.0).sin() + (f64::from(n) / 2.3).sin() * 0.4 + 1.6;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let more = (wave * 9000.0) as u64;
        counted.calls += more;
        counted.read += more * 20_000;
        counted.written += (more % 977) * 70_000;
        rates.sample(start + EVERY * n, counted);
    }
    let view = PageContext { rates, refused: 2, ..view() };
    let mut volumes: Vec<_> = (1..24)
        .map(|n: u8| (u64::from(n), n))
        .map(|(n, small)| {
            let capacity = (n % 5 + 1) * 10 * GIB;
            let name = format!("default-data-postgres-{n}-pvc-8c1f2a7e-{:04x}", n * 7919 % 65_536);
            let mut status = status(&name, capacity * (n * 37 % 90) / 100, capacity);
            status.inodes_used = n * n * 1234 + 1;
            status.mounted_by = (0..small % 6).map(|k| [10, 0, 3, 10 + k].into()).collect();
            let (calls, read, written) = (n * 1000, n * n * GIB / 9, (n * 77) << 20);
            (status.traffic.calls, status.traffic.read, status.traffic.written) =
                (calls, read, written);
            status
        })
        .collect();
    volumes.push(status("<script>alert(1)", 99 * GIB, 100 * GIB));
    volumes[0].phase = VolumePhase::Counting;
    volumes[1].phase = VolumePhase::Cloning {
        from: VolumeName::new("golden-image").unwrap(),
        progress: ProgressSnapshot {
            bytes_done: 42,
            bytes_total: 100,
            ..ProgressSnapshot::default()
        },
    };
    let message = "cannot open /export/data/web: No such file or directory (os error 2)".into();
    volumes[2].phase = VolumePhase::Lost { message };
    let found = VolumesSnapshot {
        volumes,
        trash: trash::TrashStatus {
            waiting: 3,
            removed: 48_211,
            freed: 71 * GIB,
            current: Some("web-2".into()),
            ..trash::TrashStatus::default()
        },
        faults: vec!["cannot read registry/pvc-77.json: it is damaged".into()],
        disk: Some(DiskSpace { size_bytes: 960 * GIB, free_bytes: 311 * GIB }),
        promise: CommittedCapacity { promised: 1_200 * GIB, ..CommittedCapacity::default() },
    };
    let export = StaticExport {
        path: "/srv/shared".into(),
        directory: "/srv/shared".into(),
        clients: vec!["10.0.0.0/8".into(), "backup.example.org".into()],
        disk: Some(DiskSpace { size_bytes: 960 * GIB, free_bytes: 311 * GIB }),
    };
    render(&view, &PageContent::Loaded { exports: vec![export], volumes: Some(found) })
}

#[test]
#[ignore = "writes a sample page to the file PAGE_SAMPLE, for tests/admin/page"]
fn write_a_sample() {
    std::fs::write(std::env::var_os("PAGE_SAMPLE").unwrap(), sample()).unwrap();
}
