//! Lines out of a stream of bytes, bounded.

/// Longest line either side may send, in bytes, newline included.
pub const LINE_LIMIT: usize = 64 * 1024;

/// A line grew past [`LINE_LIMIT`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Line is longer than {LINE_LIMIT} bytes")]
pub struct LineError;

/// Collects bytes and hands out whole lines.
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
}

impl LineBuffer {
    /// Takes in what was read.
    ///
    /// # Errors
    /// When the unfinished line is too long; the connection is of no further use.
    pub fn push(&mut self, read: &[u8]) -> Result<(), LineError> {
        self.bytes.extend_from_slice(read);
        let unfinished = match self.bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => self.bytes.len() - last - 1,
            None => self.bytes.len(),
        };
        if unfinished >= LINE_LIMIT { Err(LineError) } else { Ok(()) }
    }

    /// The next whole line, without its newline.
    pub fn next_line(&mut self) -> Option<Vec<u8>> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n')?;
        let rest = self.bytes.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.bytes, rest);
        line.pop();
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lines_survive_any_cutting(lines in proptest::collection::vec("[a-z]{0,20}", 0..10), cuts in any::<u64>()) {
            let stream: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
            let step = usize::try_from(cuts % 7 + 1).unwrap();
            let mut buffer = LineBuffer::default();
            let mut found = Vec::new();
            for piece in stream.chunks(step) {
                buffer.push(piece).unwrap();
                while let Some(line) = buffer.next_line() {
                    found.push(String::from_utf8(line).unwrap());
                }
            }
            prop_assert_eq!(found, lines);
        }
    }

    #[test]
    fn endless_line_is_refused() {
        let mut buffer = LineBuffer::default();
        assert_eq!(buffer.push(&vec![b'x'; LINE_LIMIT - 1]), Ok(()));
        assert_eq!(buffer.push(b"x"), Err(LineError));
    }
}
