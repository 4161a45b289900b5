//! What functions printed: a bounded ring of lines per function, and the tail of one call.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Longest line kept; the rest of it is dropped with a mark.
const LINE_LIMIT: usize = 8 * 1024;

/// Bytes of log an invocation answers with (`X-Amz-Log-Result`), as on Lambda.
pub const TAIL_LIMIT: usize = 4 * 1024;

/// The logs of all functions.
#[derive(Debug)]
pub struct Logs {
    lines: usize,
    functions: Mutex<HashMap<String, Arc<FunctionLog>>>,
}

impl Logs {
    /// Keeps `lines` lines of each function.
    pub fn new(lines: usize) -> Self {
        Self { lines, functions: Mutex::default() }
    }

    /// The log of one function, made when it is not there yet.
    pub fn of(&self, function: &str) -> Arc<FunctionLog> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let log = functions
            .entry(function.to_owned())
            .or_insert_with(|| Arc::new(FunctionLog { limit: self.lines, ring: Mutex::default() }));
        Arc::clone(log)
    }

    /// The log of a function that has one.
    pub fn get(&self, function: &str) -> Option<Arc<FunctionLog>> {
        self.functions.lock().unwrap_or_else(PoisonError::into_inner).get(function).cloned()
    }

    /// Forgets a function's log.
    pub fn remove(&self, function: &str) {
        self.functions.lock().unwrap_or_else(PoisonError::into_inner).remove(function);
    }
}

/// The log of one function.
#[derive(Debug)]
pub struct FunctionLog {
    limit: usize,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<String>,
    /// Sandboxes write in pieces: an unfinished last line per sandbox.
    partial: HashMap<String, Vec<u8>>,
}

impl FunctionLog {
    /// Appends output of one sandbox, in pieces of any size.
    pub fn append(&self, sandbox: &str, bytes: &[u8]) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pending = ring.partial.remove(sandbox).unwrap_or_default();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let room = LINE_LIMIT.saturating_sub(pending.len());
            pending.extend_from_slice(text.get(..room.min(text.len())).unwrap_or_default());
            if piece.ends_with(b"\n") {
                ring.push(self.limit, String::from_utf8_lossy(&pending).into_owned());
                pending.clear();
            }
        }
        if !pending.is_empty() {
            ring.partial.insert(sandbox.to_owned(), pending);
        }
    }

    /// Ends the unfinished line of a sandbox that is gone.
    pub fn finish(&self, sandbox: &str) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pending) = ring.partial.remove(sandbox) {
            ring.push(self.limit, String::from_utf8_lossy(&pending).into_owned());
        }
    }

    /// The newest `limit` lines, oldest first.
    pub fn last(&self, limit: usize) -> Vec<String> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = ring.lines.len().saturating_sub(limit);
        ring.lines.iter().skip(skip).cloned().collect()
    }
}

/// The end of a function's log that one sandbox writes to; its unfinished line ends with it.
#[derive(Debug)]
pub struct Writer {
    log: Arc<FunctionLog>,
    sandbox: Arc<str>,
}

impl Writer {
    /// A writer for the sandbox of this name.
    pub fn new(log: Arc<FunctionLog>, sandbox: Arc<str>) -> Self {
        Self { log, sandbox }
    }

    /// Appends output in pieces of any size.
    pub fn append(&self, bytes: &[u8]) {
        self.log.append(&self.sandbox, bytes);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.log.finish(&self.sandbox);
    }
}

impl Ring {
    fn push(&mut self, limit: usize, line: String) {
        while self.lines.len() >= limit.max(1) {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

/// The last bytes of one call's log.
#[derive(Debug, Default)]
pub struct Tail {
    bytes: VecDeque<u8>,
}

impl Tail {
    /// Appends, forgetting the oldest beyond the limit.
    pub fn append(&mut self, bytes: &[u8]) {
        let keep = bytes.get(bytes.len().saturating_sub(TAIL_LIMIT)..).unwrap_or_default();
        let excess = (self.bytes.len() + keep.len()).saturating_sub(TAIL_LIMIT);
        self.bytes.drain(..excess.min(self.bytes.len()));
        self.bytes.extend(keep);
    }

    /// What is kept.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lines_do_not_depend_on_the_pieces(text in "[a-c\n]{0,200}", cuts in prop::collection::vec(1usize..9, 1..30)) {
            let whole = FunctionLog { limit: 50, ring: Mutex::default() };
            whole.append("a", text.as_bytes());
            whole.finish("a");
            let pieces = FunctionLog { limit: 50, ring: Mutex::default() };
            let mut rest = text.as_bytes();
            let mut cut = cuts.iter().cycle();
            while !rest.is_empty() {
                let (piece, tail) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
                pieces.append("a", piece);
                rest = tail;
            }
            pieces.finish("a");
            prop_assert_eq!(whole.last(99), pieces.last(99));
            let expected: Vec<&str> = text.lines().collect();
            let skip = expected.len().saturating_sub(50);
            prop_assert_eq!(whole.last(99), expected[skip..].to_vec());
        }

        #[test]
        fn the_tail_is_the_end(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..6)) {
            let mut tail = Tail::default();
            pieces.iter().for_each(|piece| tail.append(piece));
            let all = pieces.concat();
            prop_assert_eq!(tail.into_bytes(), all[all.len().saturating_sub(TAIL_LIMIT)..].to_vec());
        }
    }

    #[test]
    fn sandboxes_do_not_mix_and_long_lines_are_cut() {
        let log = Arc::new(FunctionLog { limit: 3, ring: Mutex::default() });
        let [a, b] = ["a", "b"].map(|name| Writer::new(Arc::clone(&log), Arc::from(name)));
        a.append(b"one ");
        b.append(b"other\n");
        a.append(b"line\n");
        a.append(&vec![b'x'; LINE_LIMIT * 2]);
        drop(a);
        let lines = log.last(9);
        assert_eq!(&lines[..2], ["other", "one line"]);
        assert_eq!(lines[2].len(), LINE_LIMIT);
    }
}
