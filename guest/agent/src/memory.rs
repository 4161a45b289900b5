//! How much memory the whole microVM uses.

use std::fs;

/// Less than this part of all memory available, for [`STARVED_SAMPLES`] looks in a row, is starvation: the kernel then
/// reads the same program pages again and again rather than kill anybody.
const STARVED_PART: u64 = 50;

/// How many looks in a row; at one in 50 ms, two seconds.
const STARVED_SAMPLES: u32 = 40;

/// One look at `/proc/meminfo`, KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    total: u64,
    available: u64,
}

impl Look {
    /// Looks; `None` where `/proc` cannot be read.
    #[must_use]
    pub fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/meminfo").ok()?)
    }

    fn parse(meminfo: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_ascii_whitespace().next()?.parse::<u64>().ok()
        };
        Some(Self { total: field("MemTotal")?, available: field("MemAvailable")? })
    }

    /// `MemTotal - MemAvailable`, KiB.
    #[must_use]
    pub fn used_kb(self) -> u64 {
        self.total.saturating_sub(self.available)
    }
}

/// Notices when there has been no memory for a while.
#[derive(Debug, Default)]
pub struct Starvation {
    samples: u32,
}

impl Starvation {
    /// Takes one look; true when it is time to end who takes it all.
    pub fn after(&mut self, look: Look) -> bool {
        let starved = look.available.saturating_mul(STARVED_PART) < look.total;
        self.samples = if starved { self.samples + 1 } else { 0 };
        self.samples >= STARVED_SAMPLES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let used = |text| Look::parse(text).map(Look::used_kb);
        assert_eq!(used("MemTotal:         128 kB\nMemFree: 5 kB\nMemAvailable:    100 kB\n"), Some(28));
        assert_eq!(used("MemTotal:         128 kB\n"), None);
        assert_eq!(used("MemTotal: x kB\nMemAvailable: 1 kB\n"), None);
        assert!(Look::now().is_some_and(|look| look.used_kb() > 0));
    }

    #[test]
    fn only_lasting_want_is_starvation() {
        let (full, fine) =
            (Look { total: 100_000, available: 900 }, Look { total: 100_000, available: 2_100 });
        let mut starvation = Starvation::default();
        assert!((1..STARVED_SAMPLES).all(|_| !starvation.after(full)));
        assert!(!starvation.after(fine));
        assert!((1..STARVED_SAMPLES).all(|_| !starvation.after(full)));
        assert!(starvation.after(full));
    }
}
