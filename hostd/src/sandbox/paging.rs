//! What the kernel knows of a monitor's memory: page faults, and pages of its own.

/// Counts of one process since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Paging {
    /// Page faults served from memory.
    pub minor_faults: u64,
    /// Page faults that waited for the disk.
    pub major_faults: u64,
}

impl Paging {
    /// Those of process `pid`, if it is there.
    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name, in parentheses, may contain anything; field 3 follows it.
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split_ascii_whitespace().skip(7);
        let minor_faults = fields.next()?.parse().ok()?;
        let major_faults = fields.nth(1)?.parse().ok()?;
        Some(Self { minor_faults, major_faults })
    }
}

/// Bytes of memory that only process `pid` has and that are not as on the disk. The kernel looks at every page of it.
pub fn private_dirty(pid: u32) -> Option<u64> {
    parse_private_dirty(&std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

fn parse_private_dirty(rollup: &str) -> Option<u64> {
    let kib = rollup.lines().find_map(|line| line.strip_prefix("Private_Dirty:"))?;
    kib.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_fields_are_read() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1234 99 56 88 1 2 0 0 20 0";
        assert_eq!(Paging::parse(stat), Some(Paging { minor_faults: 1234, major_faults: 56 }));
        assert_eq!(Paging::parse("7 (x) S 1"), None);
        assert!(Paging::of(std::process::id()).is_some_and(|paging| paging.minor_faults > 0));
    }

    #[test]
    fn private_memory_is_read() {
        let rollup =
            "5-7 ---p 0 00:00 0 [rollup]\nRss:  9 kB\nPrivate_Clean: 3 kB\nPrivate_Dirty:      12 kB\n";
        assert_eq!(parse_private_dirty(rollup), Some(12 * 1024));
        assert_eq!(parse_private_dirty("Private_Dirty: x kB"), None);
        assert_eq!(parse_private_dirty("Private_Dirty: 18446744073709551615 kB"), None);
        assert!(private_dirty(std::process::id()).is_some_and(|bytes| bytes > 0));
    }
}
