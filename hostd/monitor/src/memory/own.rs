//! This process's own memory, as the kernel accounts for it.
//!
//! # Pages the guest has given back
//!
//! The balloon takes them out with `MADV_DONTNEED`. What guest memory is made of at that place makes no difference to
//! the guest, which expects nothing of a page it takes back, but here is what happens:
//!
//! - Anonymous memory: the page is freed, and there are zeros when it is touched again.
//! - A file laid over it: the guest's copy of a page it wrote to is freed, and the file's bytes are there again: those
//!   of this guest's snapshot, its base or its kernel, so nothing it has not seen. A page it only read stays in the page
//!   cache and goes from the page tables alone.
//! - Memory whose faults a thread serves (`reap`): the page is freed, and a touch is a fault as the first one was, which
//!   the thread serves from the snapshot. The thread never writes to pages the guest does not ask for, but for the
//!   working set, which is in place before the guest runs.
//! - A large page: given back whole it is freed at once; a part of it is only noted, and freed when the rest is given back
//!   or when the host is short of memory. Linux takes pages for its balloon from large free blocks, one behind the
//!   other. Kernels make large pages of small ones and of none at all (khugepaged), hence [`allow_large_pages`].
//! - Memory that is recorded: write protection is never set, only asked for, so nothing of it is lost; but the page
//!   counts as never touched from then on. So recording ends when memory is to be given back.
//! - Memory that is being mapped in bulk: a page may be there again at once. That happens right after a restore, is no
//!   more than what was mapped before, and ends.
//!
//! A snapshot may be taken meanwhile. What it says of a page that is in the balloon is what the mapped files say, or
//! zeros: as good as anything else. The driver learns when it is restored that nothing is wanted of it any more.

use std::io;

/// Bytes of memory that belong to this process alone: what ends with it. Correct but for a few pages per processor.
pub(crate) fn own_bytes() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    parse(&status).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

/// Whether memory of this process may be made of large pages, where that was asked for. Those there are stay.
pub(crate) fn allow_large_pages(allowed: bool) {
    // SAFETY: sets a flag of this process. Fails only on kernels without large pages.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(!allowed), 0, 0, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_line_is_read() {
        let status = "Name:\tRssAnon:\nVmRSS:\t  9 kB\nRssAnon:\t    1044 kB\nRssFile:\t 1 kB\n";
        assert_eq!(parse(status), Some(1044 << 10));
        assert_eq!(parse("RssAnon:\t x kB\n"), None);
        assert_eq!(parse("RssAnon:\t 18446744073709551615 kB\n"), None);
        assert!(own_bytes().unwrap() > 4096);
    }
}
