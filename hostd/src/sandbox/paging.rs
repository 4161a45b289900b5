//! What bringing memory back cost a monitor: page faults and reads, as the kernel counts them.

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
}
