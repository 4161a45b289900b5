//! How much memory the whole microVM uses.

use std::fs;

/// Less than this part of all memory available, for [`STARVED_SAMPLES`] looks in a row, is starvation: the kernel then
/// reads the same program pages again and again rather than kill anybody.
const STARVED_PART: u64 = 50;

/// How many looks in a row; at one in 50 ms, two seconds.
const STARVED_SAMPLES: u32 = 40;

/// A page, KiB.
const PAGE_KB: u64 = 4;

/// One look at `/proc/meminfo`, KiB. What the host has taken for the time being counts as available: it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    total: u64,
    available: u64,
}

impl Look {
    /// Looks; `None` where `/proc` cannot be read.
    #[must_use]
    pub fn now() -> Option<Self> {
        let look = Self::parse(&fs::read_to_string("/proc/meminfo").ok()?)?;
        // Only a kernel with a balloon counts its pages.
        let lent = lent_kb(&fs::read_to_string("/proc/vmstat").unwrap_or_default());
        Some(look.and_lent(lent.unwrap_or(0)))
    }

    fn and_lent(self, lent: u64) -> Self {
        Self { available: self.available.saturating_add(lent).min(self.total), ..self }
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

/// What is in the balloon, KiB, by `/proc/vmstat`: the kernel counts pages that went in, and those that came out.
fn lent_kb(vmstat: &str) -> Option<u64> {
    let count = |name: &str| {
        let line = vmstat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse::<u64>().ok()
    };
    let pages = count("balloon_inflate")?.saturating_sub(count("balloon_deflate")?);
    Some(pages.saturating_mul(PAGE_KB))
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
    fn what_the_host_took_is_not_used() {
        let vmstat = "nr_free_pages 7\nballoon_inflate 1000\nballoon_deflate 400\nballoon_migrate 5\n";
        assert_eq!(lent_kb(vmstat), Some(2400));
        assert_eq!(lent_kb("balloon_inflate 3\nballoon_deflate 5\n"), Some(0));
        assert_eq!(lent_kb("balloon_inflate 3\n"), None);
        assert_eq!(lent_kb("balloon_inflate x\nballoon_deflate 5\n"), None);
        let look = Look { total: 10_000, available: 100 };
        assert_eq!(look.and_lent(2400).used_kb(), 7_500);
        assert_eq!(look.and_lent(u64::MAX).used_kb(), 0);
        let mut starvation = Starvation::default();
        assert!((0..2 * STARVED_SAMPLES).all(|_| !starvation.after(look.and_lent(2400))));
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
