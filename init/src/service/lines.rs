//! Cuts a stream of bytes into lines of bounded length. Pure.

/// Longest line in bytes; a longer one continues on the next.
pub const MAX_LINE: usize = 2048;

/// Collects bytes until a line is whole.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes bytes and returns the lines they complete, without line ends; empty lines are left out.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => lines.extend(self.take()),
                _ => {
                    self.partial.push(*byte);
                    if self.partial.len() >= MAX_LINE {
                        lines.extend(self.take());
                    }
                }
            }
        }
        lines
    }

    /// What is left at the end of the stream.
    pub fn take(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.partial);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches('\r');
        (!text.is_empty()).then(|| text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_cut_across_reads() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\r\ntw"), ["one"]);
        assert_eq!(lines.push(b"o\n\nthree"), ["two"]);
        assert_eq!(lines.take().as_deref(), Some("three"));
        assert_eq!(lines.take(), None);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_line_is_too_long(text in "[a-z\n]{0,9000}", cut in 1usize..500) {
            let mut lines = Lines::default();
            let mut out: Vec<String> = text.as_bytes().chunks(cut).flat_map(|part| lines.push(part)).collect();
            out.extend(lines.take());
            prop_assert!(out.iter().all(|line| line.len() <= MAX_LINE && !line.is_empty()));
            prop_assert_eq!(out.concat(), text.replace('\n', ""));
        }

        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            Lines::default().push(&bytes);
        }
    }
}
