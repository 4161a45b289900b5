//! How much memory the whole microVM uses.

use std::fs;

/// `MemTotal - MemAvailable` now, KiB; 0 where `/proc` cannot be read.
#[must_use]
pub fn used_kb() -> u64 {
    fs::read_to_string("/proc/meminfo").ok().and_then(|text| used(&text)).unwrap_or(0)
}

fn used(meminfo: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    field("MemTotal")?.checked_sub(field("MemAvailable")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(used("MemTotal:         128 kB\nMemFree: 5 kB\nMemAvailable:    100 kB\n"), Some(28));
        assert_eq!(used("MemTotal:         128 kB\n"), None);
        assert_eq!(used("MemTotal: x kB\nMemAvailable: 1 kB\n"), None);
        assert!(used_kb() > 0);
    }
}
