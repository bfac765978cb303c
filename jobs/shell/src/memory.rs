//! How much memory a session may use.

use std::fs;

/// Share of the memory that queries may use; the rest is for readers, writers and the allocator.
const SHARE: (u64, u64) = (6, 10);
/// What is assumed where neither a cgroup nor the kernel says.
const FALLBACK: u64 = 2 << 30;

/// Bytes for queries: six tenths of the container's limit, or of the machine's memory where there is no limit.
pub fn limit() -> usize {
    let cgroup = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|text| text.trim().parse::<u64>().ok());
    let physical = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    // Without a limit a cgroup of version 1 says a number beyond any memory.
    let bytes = cgroup.into_iter().chain(physical).min().unwrap_or(FALLBACK);
    usize::try_from(bytes / SHARE.1 * SHARE.0).unwrap_or(usize::MAX)
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
}
