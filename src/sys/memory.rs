//! Memory: the kernel's room for dirty pages, the limit of the process, and returning free memory.

use std::fs;
use std::path::Path;

use super::fault;

/// The file system of control groups (version 2).
const GROUPS: &str = "/sys/fs/cgroup";

/// Returns the bytes that can be written to the page cache before the kernel throttles writers. It
/// does not throttle below the middle of its two thresholds (mm/page-writeback.c, "freerun"). 0 in
/// a control group whose memory is limited: it has thresholds of its own, which are unknown.
///
/// Reads a few files of the kernel, which takes 50 us.
pub fn room_to_write() -> u64 {
    if fault::is_stuck() || is_limited() {
        return 0;
    }
    let pages = fs::read_to_string("/proc/vmstat").ok().and_then(|text| room(&text)).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

/// Whether the disk takes nothing, because a test says so. Always false in a release build.
pub fn is_stuck() -> bool {
    fault::is_stuck()
}

/// Returns the room in pages, from the text of /proc/vmstat.
fn room(vmstat: &str) -> Option<u64> {
    let value = |name: &str| -> Option<u64> {
        let mut lines = vmstat.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(known, _)| *known == name)?.1.parse().ok()
    };
    let taken = value("nr_dirty")?.saturating_add(value("nr_writeback")?);
    let (low, high) = (value("nr_dirty_background_threshold")?, value("nr_dirty_threshold")?);
    Some(low.midpoint(high).saturating_sub(taken))
}

/// Whether the process' control group, or a visible ancestor, limits memory.
fn is_limited() -> bool {
    let Ok(groups) = fs::read_to_string("/proc/self/cgroup") else { return true };
    unified(&groups)
        .is_some_and(|own| limits(&Path::new(GROUPS).join(own), &UNIFIED).next().is_some())
}

/// Returns the memory limit of the process in bytes: the smallest limit of its visible control
/// groups, of version 1 or 2. `None` if none is below the memory of the machine.
///
/// Reads files of the kernel.
pub fn limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let least = |root, own, files: &[&str]| limits(&Path::new(root).join(own), files).min();
    let second = unified(&groups).and_then(|own| least(GROUPS, own, &UNIFIED));
    let first = legacy(&groups).and_then(|own| least(LEGACY, own, &["memory.limit_in_bytes"]));
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let least = [second, first].into_iter().flatten().min()?;
    (least < machine.unwrap_or(u64::MAX)).then_some(least)
}

/// The file system of the memory controller of version 1.
const LEGACY: &str = "/sys/fs/cgroup/memory";

/// The limit files of version 2.
const UNIFIED: [&str; 2] = ["memory.max", "memory.high"];

/// Returns the process' group of version 2 without its first slash, from the text of
/// /proc/self/cgroup.
fn unified(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// As [`unified`], for the memory controller of version 1.
fn legacy(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| name == "memory").then_some(path.strip_prefix('/')?)
    })
}

/// Returns the limits of a group and its ancestors. In a container the group may have another name
/// than the process sees, but the root is always visible.
fn limits<'a>(group: &'a Path, files: &'a [&str]) -> impl Iterator<Item = u64> + 'a {
    let around = group.ancestors().take_while(|group| group.starts_with(GROUPS));
    around.flat_map(move |group| {
        files.iter().filter_map(move |file| {
            fs::read_to_string(group.join(file)).ok()?.trim().parse().ok() // "max" is no number
        })
    })
}

/// Returns the machine's memory in bytes, from the text of /proc/meminfo.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Makes the C library return large blocks to the kernel as soon as they are freed. To be called
/// before other threads are started.
///
/// By default the C library raises its threshold with each large block that is freed, up to 32 MiB,
/// and keeps smaller blocks: hundreds of megabytes stay allocated after a load.
pub fn free_at_once() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function takes two numbers, and rejects invalid ones.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BLOCK);
    }
}

/// Blocks of at least this size get a mapping of their own.
#[cfg(target_env = "gnu")]
const LARGE_BLOCK: libc::c_int = 128 * 1024;

/// Returns free memory between blocks in use to the kernel. Other threads that allocate wait for
/// it, for some milliseconds.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function takes a number, and only releases free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_is_left_below_the_middle_of_the_thresholds() {
        let vmstat = |dirty: u64| {
            format!(
                "nr_free_pages 9\nnr_dirty {dirty}\nnr_writeback 50\nnr_dirtied 7\n\
                 nr_dirty_threshold 2000\nnr_dirty_background_threshold 1000\n"
            )
        };
        assert_eq!(room(&vmstat(250)), Some(1200));
        assert_eq!(room(&vmstat(1450)), Some(0));
        assert_eq!(room(&vmstat(9000)), Some(0));
        assert_eq!(room("nr_dirty 1\nnr_writeback 1\n"), None);
        assert_eq!(room(""), None);
    }

    #[test]
    fn the_groups_of_both_versions_are_found() {
        let both = "9:name=systemd:/\n4:memory,hugetlb:/pod/a\n1:cpu:/x\n0::/pod/b\n";
        assert_eq!((legacy(both), unified(both)), (Some("pod/a"), Some("pod/b")));
        assert_eq!((legacy("0::/\n"), unified("0::/\n")), (None, Some("")));
        assert_eq!((legacy(""), unified("")), (None, None));
    }

    #[test]
    fn the_limit_is_below_what_the_machine_has() {
        let machine = total(&fs::read_to_string("/proc/meminfo").unwrap()).unwrap();
        assert!(limit().is_none_or(|limit| limit < machine));
        assert_eq!(total("MemTotal:       100 kB\n"), Some(102_400));
    }

    #[test]
    fn the_kernel_says_what_is_asked_for() {
        let text = fs::read_to_string("/proc/vmstat").unwrap();
        assert!(room(&text).is_some(), "{text}");
    }
}
