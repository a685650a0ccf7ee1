//! Volumes as text for terminals: the table of all, the fields of one, progress. Pure.

use super::text::{self, TextColumn, TextTable};
use crate::quantity::about;
use crate::volume::overcommit::CommittedCapacity;
use crate::volume::progress::ProgressSnapshot;
use crate::volume::spec::{QuotaMode, Spec, VolumePhase, VolumeStatus};
use crate::volume::trash;

/// Format of times, in UTC.
pub const TIME: &str = "%Y-%m-%d %H:%MZ";

/// A table of volumes, one per line.
pub fn table(volumes: &[VolumeStatus]) -> String {
    let mut table = TextTable::new(vec![
        TextColumn::Left("NAME"),
        TextColumn::Left("STATUS"),
        TextColumn::Right("CAPACITY"),
        TextColumn::Right("USED"),
        TextColumn::Right("USE%"),
        TextColumn::Right("FREE"),
        TextColumn::Right("CLIENTS"),
        TextColumn::Left("ON DELETE"),
        TextColumn::Left("CREATED"),
    ]);
    for volume in volumes {
        table.row([
            volume.spec.name.to_string(),
            phase(&volume.phase).0.to_owned(),
            about(volume.spec.capacity),
            used(volume, about(volume.used)),
            used(volume, percent(volume.used, volume.spec.capacity)),
            about(volume.free),
            count(volume.mounted_by.len()),
            volume.spec.on_delete.name().to_owned(),
            volume.created.strftime(TIME).to_string(),
        ]);
    }
    table.lines()
}

/// The sum of all capacities, compared with the disk and the limit.
pub fn promise(promise: &CommittedCapacity) -> String {
    let sum = about(promise.promised);
    let (Some(disk), Some(percent)) = (promise.disk, promise.percent()) else {
        return format!("All capacities: {sum}");
    };
    let limit = match promise.overcommit {
        Some(limit) => format!("the limit is {limit}%"),
        None => "no limit".to_owned(),
    };
    format!(
        "All capacities: {sum}, {percent}% of the disk ({}); {limit} (--overcommit)",
        about(disk)
    )
}

/// All fields of one volume, one per line.
pub fn fields(volume: &VolumeStatus) -> String {
    let spec = &volume.spec;
    let (status, detail) = phase(&volume.phase);
    let status = if detail.is_empty() { status.into() } else { format!("{status}: {detail}") };
    let beyond = if volume.used > spec.capacity { ", more than its capacity" } else { "" };
    let share = percent(volume.used, spec.capacity);
    let used = used(volume, format!("{} ({share}){beyond}", about(volume.used)));
    text::fields(&[
        ("Name", spec.name.to_string()),
        ("Id", spec.id.to_string()),
        ("Status", status),
        ("Path", volume.path.clone()),
        ("Directory", volume.directory.clone()),
        ("Created", created(volume)),
        ("Capacity", format!("{} ({})", about(spec.capacity), quota(spec.quota))),
        ("Used", used),
        ("Free", about(volume.free)),
        ("Inodes", inodes(volume)),
        ("Owner", owner(volume)),
        ("Mode", format!("{:04o}", volume.access.map_or(spec.mode, |access| access.mode))),
        ("Squash", squash(spec)),
        ("Clients", list(&spec.clients)),
        ("Changes", if spec.sync { "sync" } else { "async" }.to_owned()),
        ("On delete", spec.on_delete.name().to_owned()),
        ("Labels", list(spec.labels.iter().map(|(key, value)| format!("{key}={value}")))),
        ("Mounted by", list(&volume.mounted_by)),
        ("Traffic", traffic(volume)),
    ])
}

/// The state of the trash.
pub fn trash(trash: &trash::TrashStatus) -> String {
    text::fields(&[
        ("Waiting", trash.waiting.to_string()),
        ("Current", trash.current.clone().unwrap_or_default()),
        ("Set aside", trash.set_aside.to_string()),
        ("Removed", trash.removed.to_string()),
        ("Freed", about(trash.freed)),
    ])
}

/// The progress of a copy.
pub fn progress(progress: &ProgressSnapshot) -> String {
    let ProgressSnapshot { entries_done: files, bytes_done, bytes_total, .. } = *progress;
    match bytes_total {
        0 => format!("{}, {files} files", about(bytes_done)), // the total is not known yet
        total => format!("{} of {}, {files} files", about(bytes_done), about(total)),
    }
}

/// The content and the clients of a volume, for the question before it is destroyed.
pub fn content(volume: &VolumeStatus) -> String {
    let clients = match volume.mounted_by.len() {
        0 => String::new(),
        1 => ", used by 1 client".to_owned(),
        n => format!(", used by {n} clients"),
    };
    // The directory of the volume itself does not count.
    let files = volume.inodes_used.saturating_sub(1);
    format!("{} in {files} files and directories{clients}", about(volume.used))
}

/// The name of a phase, and its details.
pub fn phase(phase: &VolumePhase) -> (&'static str, String) {
    match phase {
        VolumePhase::Ready => ("ready", String::new()),
        VolumePhase::Counting => ("counting", String::new()),
        VolumePhase::Cloning { from, progress: snapshot } => {
            ("cloning", format!("from {from}, {}", progress(snapshot)))
        }
        VolumePhase::Failed { message } => ("failed", message.clone()),
        VolumePhase::Lost { message } => ("lost", message.clone()),
    }
}

/// What is known of a volume's usage: until it is counted, the number is only an upper bound.
fn used(volume: &VolumeStatus, known: String) -> String {
    if volume.phase == VolumePhase::Counting { "counting".to_owned() } else { known }
}

fn percent(part: u64, whole: u64) -> String {
    let percent = u128::from(part) * 100;
    percent.checked_div(whole.into()).map(|percent| format!("{percent}%")).unwrap_or_default()
}

/// A number; empty for 0.
fn count(n: usize) -> String {
    if n == 0 { String::new() } else { n.to_string() }
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn inodes(volume: &VolumeStatus) -> String {
    match volume.spec.inodes {
        Some(limit) => format!("{} of {limit}", volume.inodes_used),
        None => volume.inodes_used.to_string(),
    }
}

fn created(volume: &VolumeStatus) -> String {
    let at = volume.created.strftime(TIME);
    match &volume.copy_of {
        Some(from) => format!("{at}, as a copy of {from}"),
        None => at.to_string(),
    }
}

fn owner(volume: &VolumeStatus) -> String {
    if let Some(access) = volume.access {
        return format!("{}:{}", access.uid, access.gid);
    }
    let spec = &volume.spec;
    let id = |id: Option<u32>| id.map_or_else(|| "server".to_owned(), |id| id.to_string());
    format!("{}:{}", id(spec.uid), id(spec.gid))
}

fn squash(spec: &Spec) -> String {
    format!("{} (anonymous {}:{})", spec.squash.name(), spec.anon_uid, spec.anon_gid)
}

fn traffic(volume: &VolumeStatus) -> String {
    let traffic = volume.traffic;
    match traffic.calls {
        0 => String::new(),
        calls => {
            let (read, written) = (about(traffic.read), about(traffic.written));
            format!("{calls} calls, {read} read, {written} written")
        }
    }
}

const fn quota(quota: QuotaMode) -> &'static str {
    match quota {
        QuotaMode::Enforce => "enforced",
        QuotaMode::Report => "reported",
        QuotaMode::Off => "off",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::VolumeApi;
    use crate::admin::fake::{FakeVolumes, name};
    use crate::export::traffic::TrafficTotals;
    use crate::volume::spec::OwnerAndMode;

    fn volume() -> VolumeStatus {
        FakeVolumes::with(&["data"]).show(&name("data")).unwrap()
    }

    fn busy() -> VolumeStatus {
        let mut busy = volume();
        busy.used = 3 << 30;
        busy.free = 7 << 30;
        busy.inodes_used = 12;
        busy.mounted_by = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        busy.traffic = TrafficTotals { calls: 5, read: 1 << 20, written: 0 };
        busy.phase = VolumePhase::Lost { message: "gone\u{1b}[2J".into() };
        busy.directory = "/srv/da\nta".into();
        busy.spec.labels.insert("a".into(), "\u{7}".into());
        busy.spec.inodes = Some(100);
        busy.spec.uid = Some(5);
        busy
    }

    #[test]
    fn volumes_are_listed_in_a_table() {
        let expected = "\
NAME   STATUS   CAPACITY   USED   USE%   FREE   CLIENTS   ON DELETE   CREATED
data   ready        10Gi      0     0%   10Gi         -   delete      1970-01-01 00:00Z
data   lost         10Gi    3Gi    30%    7Gi         2   delete      1970-01-01 00:00Z
";
        assert_eq!(table(&[volume(), busy()]), expected);
    }

    #[test]
    fn one_volume_is_shown_with_all_fields_escaped() {
        let expected = "\
Name:        data
Id:          data
Status:      lost: gone\\u{1b}[2J
Path:        /data
Directory:   /srv/da\\u{a}ta
Created:     1970-01-01 00:00Z
Capacity:    10Gi (enforced)
Used:        3Gi (30%)
Free:        7Gi
Inodes:      12 of 100
Owner:       5:server
Mode:        0777
Squash:      no_root_squash (anonymous 65534:65534)
Clients:     *
Changes:     sync
On delete:   delete
Labels:      a=\\u{7}
Mounted by:  10.0.0.1, fd00::1
Traffic:     5 calls, 1Mi read, 0 written
";
        assert_eq!(fields(&busy()), expected);
        assert!(fields(&volume()).contains("Mounted by:  -\nTraffic:     -\n"));
    }

    #[test]
    fn usage_that_is_not_counted_yet_is_not_shown_as_known() {
        let mut counting = volume();
        counting.used = 10 << 30;
        counting.phase = VolumePhase::Counting;
        let row = table(&[counting.clone()]);
        assert!(row.contains("counting   counting") && !row.contains("100%"), "{row}");
        assert!(fields(&counting).contains("Used:        counting\n"));
        counting.phase = VolumePhase::Ready;
        counting.used += 1 << 30;
        counting.access = Some(OwnerAndMode { uid: 1000, gid: 100, mode: 0o755 });
        let shown = fields(&counting);
        assert!(shown.contains("Used:        11Gi (110%), more than its capacity\n"), "{shown}");
        assert!(shown.contains("Owner:       1000:100\nMode:        0755\n"), "{shown}");
    }

    #[test]
    fn progress_is_shown_also_before_the_total_is_known() {
        let mut copy = ProgressSnapshot {
            entries_done: 5,
            bytes_done: 1 << 20,
            ..ProgressSnapshot::default()
        };
        assert_eq!(progress(&copy), "1Mi, 5 files");
        copy.bytes_total = 3 << 20;
        assert_eq!(progress(&copy), "1Mi of 3Mi, 5 files");
    }

    #[test]
    fn all_capacities_are_compared_with_the_disk() {
        let line =
            |disk, overcommit| promise(&CommittedCapacity { promised: 30 << 30, disk, overcommit });
        let expected = "All capacities: 30Gi, 150% of the disk (20Gi); ";
        let disk = Some(20 << 30);
        assert_eq!(line(disk, None), format!("{expected}no limit (--overcommit)"));
        assert_eq!(line(disk, Some(200)), format!("{expected}the limit is 200% (--overcommit)"));
        assert_eq!(line(None, Some(200)), "All capacities: 30Gi");
    }

    #[test]
    fn a_capacity_of_0_has_no_percentage() {
        assert_eq!(percent(5, 0), "");
        assert_eq!(percent(u64::MAX, 1 << 60), "1599%");
    }

    #[test]
    fn content_and_clients_are_summarized() {
        assert_eq!(content(&volume()), "0 in 0 files and directories");
        assert_eq!(content(&busy()), "3Gi in 11 files and directories, used by 2 clients");
    }
}
