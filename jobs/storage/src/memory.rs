//! How much memory this process may use.
//!
//! The least of what is said: [`LIMIT`] in the environment, the control groups that the process is in (versions 1 and 2, as a container, a
//! systemd unit or anything between sets them), `ulimit -d` and `-v`, and the machine's memory.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Environment variable with a limit below the others: bytes, or with a suffix `Ki`, `Mi` or `Gi`.
pub const LIMIT: &str = "LAKEHOUSE_MEMORY_LIMIT";
/// What a process takes before it does anything, in bytes: stacks, connections, definitions.
const BASE: u64 = 16 << 20;
/// Share of the rest that may be planned with; what is left is for buffers of encoders and the allocator.
const SHARE: (u64, u64) = (6, 10);
/// What is assumed where nothing says.
const FALLBACK: u64 = 2 << 30;

/// Bytes to plan with: six tenths of what the least limit leaves, at least a quarter of it.
pub fn limit() -> usize {
    let own = std::env::var(LIMIT).ok().and_then(|text| {
        let bytes = quantity(&text);
        if bytes.is_none() {
            tracing::warn!("{LIMIT} is ignored: `{text}` is no number of bytes such as 1073741824 or 1Gi");
        }
        bytes
    });
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = group_files(&groups).into_iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let ulimits = ["Max data size", "Max address space"].into_iter().filter_map(|name| ulimit(&limits, name));
    let physical = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    // Without a limit a cgroup of version 1 says a number beyond any memory.
    let bytes = own.into_iter().chain(groups).chain(ulimits).chain(physical).min().unwrap_or(FALLBACK);
    usize::try_from(planned(bytes)).unwrap_or(usize::MAX)
}

/// Bytes above which an object is uploaded in parts, and of each part but the last. Stores of the S3 kind take parts from 5 MiB on
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>).
const PART: (usize, usize) = (5 << 20, 8 << 20);
/// Most parts of an object on their way at once: more make no upload faster.
const MOST_PARTS: usize = 4;

/// How an object is uploaded. In memory are at most `in_flight` parts on their way, and one that is being filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Size of a part, in bytes.
    pub bytes: usize,
    /// Parts on their way at once.
    pub in_flight: usize,
}

impl Parts {
    /// For `objects` that are uploaded at the same time by a process that plans with `memory` bytes: together about a quarter, if the least that
    /// a store takes is not more.
    pub fn of(memory: usize, objects: usize) -> Self {
        let share = memory / 4 / objects.max(1);
        let bytes = if share < 2 * PART.1 { PART.0 } else { PART.1 };
        Self { bytes, in_flight: (share / bytes).saturating_sub(1).clamp(1, MOST_PARTS) }
    }

    /// For `objects` at the same time in this process.
    pub fn here(objects: usize) -> Self {
        Self::of(limit(), objects)
    }
}

/// How many threads work at once in this process: one per processor, and fewer where there are less than `each` bytes to plan with for every one,
/// as for a small pod on a node of many processors.
pub fn threads(each: usize) -> usize {
    sharing(limit(), each, std::thread::available_parallelism().map_or(1, usize::from))
}

fn sharing(memory: usize, each: usize, processors: usize) -> usize {
    (memory / each.max(1)).clamp(1, processors.max(1))
}

fn planned(limit: u64) -> u64 {
    (limit.saturating_sub(BASE) / SHARE.1 * SHARE.0).max(limit / 4)
}

/// Below this many bytes to plan with, memory is worth more than the time that it costs to give it back at once.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TIGHT: usize = 1 << 30;
/// Buffers from this size on are mapped one by one, in bytes: what holds rows, columns and files is larger, most else is smaller.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED: libc::c_int = 128 << 10;
/// Heaps that threads share.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS: libc::c_int = 2;
/// Buffers below this size come from heaps where there is room, in bytes: the most that the allocator takes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ROOMY_MAPPED: libc::c_int = 32 << 20;
/// What a heap keeps at its end where there is room, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ROOMY_KEPT: libc::c_int = 1 << 30;

/// Tells the allocator how much memory there is. To be called before much is allocated.
///
/// By itself the allocator of the GNU C library takes every buffer up to 32 MiB from heaps, of which there may be eight per processor, as
/// soon as one of that size was freed, and a heap shrinks from its end only. What a stage holds within its shares then takes twice the room,
/// of which half is holes. So where there is little memory it is given back as soon as it is free. Where there is enough it is kept until
/// the process ends: a page that is given back and taken again costs more than most work on it.
#[allow(unsafe_code, reason = "the allocator has no safe interface")]
pub fn suit_allocator() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let tight = [(libc::M_MMAP_THRESHOLD, MAPPED), (libc::M_TRIM_THRESHOLD, MAPPED), (libc::M_ARENA_MAX, HEAPS)];
        let roomy = [(libc::M_MMAP_THRESHOLD, ROOMY_MAPPED), (libc::M_TRIM_THRESHOLD, ROOMY_KEPT)];
        let settings = if limit() < TIGHT { tight.as_slice() } else { roomy.as_slice() };
        for &(name, value) in settings {
            // SAFETY: `mallopt` takes numbers only, and locks the allocator while it notes them.
            if unsafe { libc::mallopt(name, value) } == 0 {
                tracing::debug!(name, value, "the allocator does not take a setting");
            }
        }
    }
}

fn quantity(text: &str) -> Option<u64> {
    let (number, shift) = match text.trim() {
        text if text.ends_with("Ki") => (&text[..text.len() - 2], 10),
        text if text.ends_with("Mi") => (&text[..text.len() - 2], 20),
        text if text.ends_with("Gi") => (&text[..text.len() - 2], 30),
        text => (text, 0),
    };
    number.parse::<u64>().ok().filter(|number| *number > 0)?.checked_mul(1 << shift)
}

/// The files with the limits of the groups that `/proc/self/cgroup` names and of all groups around them. In a container the own group is
/// mostly the root that is mounted, whatever the path says.
fn group_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for (controllers, path) in
        groups.lines().filter_map(|line| line.splitn(3, ':').skip(1).collect::<Vec<_>>().try_into().ok()).map(|[c, p]: [&str; 2]| (c, p))
    {
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            of if of.split(',').any(|name| name == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        files.extend(Path::new(path.trim_start_matches('/')).ancestors().map(|group| Path::new(root).join(group).join(file)));
    }
    files
}

/// The soft limit that a line of `/proc/self/limits` says, in bytes.
fn ulimit(limits: &str, name: &str) -> Option<u64> {
    limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_total_is_read() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       16318412 kB\n"), Some(16_318_412 * 1024));
        assert_eq!(total("nothing"), None);
        assert!(limit() > 64 << 20, "{}", limit());
    }

    #[test]
    fn what_a_process_takes_by_itself_is_not_planned_with() {
        assert_eq!(planned(16 << 20), 4 << 20);
        assert_eq!(planned(64 << 20) >> 20, 28);
        assert_eq!(planned(8 << 30) >> 20, 4905);
    }

    #[test]
    fn uploads_take_a_quarter_of_the_memory_and_what_a_store_asks_for() {
        let of = |memory, objects| Some(Parts::of(memory, objects)).map(|parts| (parts.bytes >> 20, parts.in_flight)).unwrap_or_default();
        assert_eq!(
            [of(28 << 20, 1), of(1 << 30, 64), of(200 << 20, 2), of(300 << 20, 2), of(8 << 30, 2)],
            [(5, 1), (5, 1), (8, 2), (8, 3), (8, 4)]
        );
    }

    #[test]
    fn many_processors_take_no_more_than_the_memory() {
        assert_eq!([28, 68, 600, 4 << 10].map(|mebibytes| sharing(mebibytes << 20, 8 << 20, 64)), [3, 8, 64, 64]);
        assert_eq!([sharing(28 << 20, 8 << 20, 2), sharing(28 << 20, 24 << 20, 2), sharing(0, 1, 0)], [2, 1, 1]);
    }

    #[test]
    fn limits_of_groups_around_count_too() {
        let shown = |groups: &str| group_files(groups).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(shown("0::/"), ["/sys/fs/cgroup/memory.max"]);
        let unit = ["/sys/fs/cgroup/a.slice/b.service/memory.max", "/sys/fs/cgroup/a.slice/memory.max", "/sys/fs/cgroup/memory.max"];
        assert_eq!(shown("0::/a.slice/b.service"), unit);
        let first = ["/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
        assert_eq!(shown("5:cpu,cpuacct:/\n4:memory:/x\n"), first);
    }

    #[test]
    fn settings_are_quantities() {
        assert_eq!(quantity("1073741824"), Some(1 << 30));
        assert_eq!(quantity(" 512Mi "), Some(512 << 20));
        assert_eq!([quantity("0"), quantity("1GB"), quantity(""), quantity("99999999999Gi")], [None; 4]);
    }

    #[test]
    fn ulimits_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max data size             67108864             unlimited            bytes\n\
                      Max address space         unlimited            unlimited            bytes\n";
        assert_eq!((ulimit(limits, "Max data size"), ulimit(limits, "Max address space")), (Some(64 << 20), None));
    }
}
