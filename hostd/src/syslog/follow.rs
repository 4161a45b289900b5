//! Follows the ring of files that init writes: `log`, and `log.1` before it. Whoever writes never waits for us.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::queue::{Place, Queue};

/// Longest line taken as one; init's are shorter.
const MOST_LINE: usize = 4096;

/// Follows the files.
#[derive(Debug)]
pub struct Follower {
    folder: PathBuf,
    /// The file that is being read, how far, and the line that has no end yet.
    open: Option<Open>,
    /// Where to begin in the first file.
    from: Place,
}

#[derive(Debug)]
struct Open {
    file: File,
    place: Place,
    partial: Vec<u8>,
}

impl Follower {
    /// Follows the ring in `folder`, from behind `from` on if that is still there, else from its beginning.
    pub fn new(folder: &Path, from: Place) -> Self {
        Self { folder: folder.to_owned(), open: None, from }
    }

    /// Takes all lines there are by now.
    pub fn read(&mut self, queue: &mut Queue) {
        if self.open.is_none() {
            self.open = self.begin();
        }
        // Older file, newer file; more turns between two looks are lost lines.
        for _ in 0..3 {
            let Some(open) = &mut self.open else { return };
            open.drain(queue);
            let Some(newest) = open_file(&self.folder.join("log"), 0) else { return };
            if newest.place.file == open.place.file {
                return;
            }
            // It may have been written to after we read it and before it was turned.
            open.drain(queue);
            let before = open_file(&self.folder.join("log.1"), 0);
            let missed = before.filter(|before| before.place.file != open.place.file);
            if missed.is_some() {
                queue.drop_lines(1);
            }
            self.open = Some(missed.unwrap_or(newest));
        }
    }

    fn begin(&self) -> Option<Open> {
        let files = [self.folder.join("log.1"), self.folder.join("log")];
        let at =
            |path: &PathBuf| open_file(path, self.from.end).filter(|open| open.place.file == self.from.file);
        files.iter().find_map(at).or_else(|| files.iter().find_map(|path| open_file(path, 0)))
    }
}

fn open_file(path: &Path, at: u64) -> Option<Open> {
    let mut file = File::open(path).ok()?;
    let about = file.metadata().ok()?;
    let end = at.min(about.len());
    file.seek(SeekFrom::Start(end)).ok()?;
    Some(Open { file, place: Place { file: about.ino(), end }, partial: Vec::new() })
}

impl Open {
    fn drain(&mut self, queue: &mut Queue) {
        let mut buffer = [0_u8; 8192];
        while let Ok(length @ 1..) = self.file.read(&mut buffer) {
            for byte in buffer.get(..length).unwrap_or_default() {
                self.place.end += 1;
                if *byte != b'\n' {
                    self.partial.push(*byte);
                }
                if *byte == b'\n' || self.partial.len() >= MOST_LINE {
                    let line = String::from_utf8_lossy(&std::mem::take(&mut self.partial)).into_owned();
                    if !line.is_empty() {
                        queue.push(self.place, line);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    struct Ring(tempfile::TempDir);

    impl Ring {
        fn write(&self, text: &str) {
            let mut file = File::options().create(true).append(true).open(self.0.path().join("log")).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn turn(&self) {
            std::fs::rename(self.0.path().join("log"), self.0.path().join("log.1")).unwrap();
            self.write("");
        }
    }

    fn all(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop().map(|(_, line)| line)).collect()
    }

    #[test]
    fn lines_are_followed_over_turns_and_none_comes_twice() {
        let ring = Ring(tempfile::tempdir().unwrap());
        let (mut queue, mut follower) = (Queue::default(), Follower::new(ring.0.path(), Place::default()));
        follower.read(&mut queue);
        ring.write("one\n");
        ring.turn();
        ring.write("two\nthr");
        follower.read(&mut queue);
        assert_eq!(all(&mut queue), ["one", "two"]);
        ring.write("ee\nfour\n");
        ring.turn();
        ring.write("five\n");
        follower.read(&mut queue);
        follower.read(&mut queue);
        assert_eq!(all(&mut queue), ["three", "four", "five"]);
        assert_eq!(queue.dropped(), 0);
    }

    #[test]
    fn it_goes_on_where_it_was_and_says_what_it_missed() {
        let ring = Ring(tempfile::tempdir().unwrap());
        ring.write("one\ntwo\n");
        let mut queue = Queue::default();
        Follower::new(ring.0.path(), Place::default()).read(&mut queue);
        let (place, _) = queue.pop().unwrap();
        all(&mut queue);
        ring.turn();
        ring.write("three\n");
        let mut follower = Follower::new(ring.0.path(), place);
        follower.read(&mut queue);
        assert_eq!(all(&mut queue), ["two", "three"]);
        for text in ["four\n", "five\n", "six\n"] {
            ring.turn();
            ring.write(text);
        }
        follower.read(&mut queue);
        assert_eq!(all(&mut queue), ["five", "six"]);
        assert_eq!(queue.dropped(), 1);
    }
}
