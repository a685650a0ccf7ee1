//! How much can be written before the kernel makes writers wait for the disk.

use std::fs;
use std::path::Path;

use super::fault;

/// Where control groups (version 2) are.
const GROUPS: &str = "/sys/fs/cgroup";

/// Bytes that may be written to files in memory until the kernel holds writers up, which it does not
/// do below the middle of its two thresholds (mm/page-writeback.c, "freerun"). 0 where that cannot be
/// known: in a control group whose memory is limited, and which has thresholds of its own.
///
/// Reads a few files of the kernel: 50 us.
pub fn room_to_write() -> u64 {
    if fault::is_stuck() || is_limited() {
        return 0;
    }
    let pages = fs::read_to_string("/proc/vmstat").ok().and_then(|text| room(&text)).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

/// The room, in pages, after what /proc/vmstat says.
fn room(vmstat: &str) -> Option<u64> {
    let value = |name: &str| -> Option<u64> {
        let mut lines = vmstat.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(known, _)| *known == name)?.1.parse().ok()
    };
    let taken = value("nr_dirty")?.saturating_add(value("nr_writeback")?);
    let (low, high) = (value("nr_dirty_background_threshold")?, value("nr_dirty_threshold")?);
    Some(low.midpoint(high).saturating_sub(taken))
}

/// Whether the process' control group, or one around it that can be seen, limits memory.
fn is_limited() -> bool {
    let Ok(groups) = fs::read_to_string("/proc/self/cgroup") else { return true };
    let Some(own) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else { return false };
    Path::new(GROUPS).join(own).ancestors().take_while(|group| group.starts_with(GROUPS)).any(
        |group| {
            ["memory.max", "memory.high"].iter().any(|limit| {
                fs::read_to_string(group.join(limit)).is_ok_and(|limit| limit.trim() != "max")
            })
        },
    )
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
    fn the_kernel_says_what_is_asked_for() {
        let text = fs::read_to_string("/proc/vmstat").unwrap();
        assert!(room(&text).is_some(), "{text}");
    }
}
