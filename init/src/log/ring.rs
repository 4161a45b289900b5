//! The last lines, in two files in memory: `log` and, before it, `log.1`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Size of one file in bytes; both together are the bound.
const HALF: usize = 256 * 1024;

/// A ring of lines.
pub struct Ring {
    folder: PathBuf,
    file: File,
    written: usize,
}

impl Ring {
    /// Starts an empty ring in a folder, made if need be.
    pub fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let file = File::create(folder.join("log"))?;
        Ok(Self { folder: folder.to_owned(), file, written: 0 })
    }

    /// Adds a line. A ring that cannot be written is silent: there is nobody left to tell.
    pub fn write(&mut self, text: &str) {
        let line = format!("{text}\n");
        if self.written.saturating_add(line.len()) > HALF && self.turn().is_err() {
            return;
        }
        if self.file.write_all(line.as_bytes()).is_ok() {
            self.written = self.written.saturating_add(line.len());
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        std::fs::rename(self.folder.join("log"), self.folder.join("log.1"))?;
        self.file = File::create(self.folder.join("log"))?;
        self.written = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines_within_the_bound() {
        let folder = tempfile::tempdir().unwrap();
        let mut ring = Ring::open(folder.path()).unwrap();
        for number in 0..30_000 {
            ring.write(&format!("line number {number}"));
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let (old, new) = (read("log.1"), read("log"));
        assert!(old.len() <= HALF && new.len() <= HALF);
        assert!(new.trim_end().ends_with("line number 29999"));
        assert_eq!(old.lines().count() + new.lines().count(), {
            let first: usize = old.lines().next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
            30_000 - first
        });
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
