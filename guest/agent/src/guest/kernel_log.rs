//! What the kernel said about processes it killed. It says nothing elsewhere: the counter of such kills is not built
//! into the guest's kernel, and would not tell which process it was.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::process::Pid;

/// Longest record of `/dev/kmsg`.
const RECORD: usize = 8 * 1024;

/// More than the kernel's buffer can hold.
const RECORDS: usize = 100_000;

/// The kernel's log from its oldest record on, one record for each read.
pub fn open() -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    File::options().read(true).custom_flags(flags).open("/dev/kmsg")
}

/// Whether the log says that the process was killed because memory had run out. A function cannot write there.
pub fn killed_for_memory(mut log: impl Read, process: Pid) -> bool {
    let words = format!("Killed process {} (", process.as_raw_nonzero());
    let mut record = vec![0; RECORD];
    for _ in 0..RECORDS {
        match log.read(&mut record) {
            Ok(0) => return false,
            Ok(length) => {
                let text = String::from_utf8_lossy(record.get(..length).unwrap_or_default());
                // Everything up to the first `;` is about the record, continuation lines are about its source.
                let said =
                    text.lines().next().and_then(|line| line.split_once(';')).map_or("", |parts| parts.1);
                if said.contains("Out of memory") && said.contains(&words) {
                    return true;
                }
            }
            // The record was overwritten before it could be read: the next one is there.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {}
            Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one record for each read, as the device does; ends as it does.
    struct Records(Vec<io::Result<&'static str>>);

    impl Read for Records {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(ErrorKind::WouldBlock.into());
            }
            let record = self.0.remove(0)?;
            buffer[..record.len()].copy_from_slice(record.as_bytes());
            Ok(record.len())
        }
    }

    const KILLED: &str =
        "3,310,90455,-;Out of memory: Killed process 57 (python3.11) total-vm:129036kB, anon-rss:90kB\n";

    fn starved(records: Vec<io::Result<&'static str>>, process: i32) -> bool {
        killed_for_memory(Records(records), Pid::from_raw(process).unwrap())
    }

    #[test]
    fn a_kill_is_found_by_its_process() {
        let before = "6,300,1,-;python3.11 invoked oom-killer: gfp_mask=0x140dca\n SUBSYSTEM=memory\n";
        assert!(starved(vec![Ok(before), Err(ErrorKind::BrokenPipe.into()), Ok(KILLED)], 57));
        assert!(!starved(vec![Ok(before), Ok(KILLED)], 5));
        assert!(!starved(vec![Ok(KILLED)], 7));
        assert!(!starved(vec![Ok("6,1,1,-;init: Killed process 57 (x)\n")], 57));
        assert!(!starved(vec![Ok("no record")], 57) && !starved(vec![], 57));
    }
}
