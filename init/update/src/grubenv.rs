//! GRUB's environment block: the one thing a boot loader without a file system driver for writing can change.
//!
//! ```text
//! # GRUB Environment Block\n
//! NAME=VALUE\n              `\` before a newline or a `\` of the value
//! # a comment\n
//! ########…                 up to 1024 bytes, always
//! ```
//!
//! GRUB overwrites the file's sectors in place. The file is therefore written in place too, never by renaming a
//! new one over it, and never changes its size.

use crate::text::clip;

/// Bytes of a block.
pub const SIZE: usize = 1024;

/// What disks write whole or not at all.
pub const SECTOR: usize = 512;

const SIGNATURE: &[u8] = b"# GRUB Environment Block\n";

/// A block, read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Block {
    lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    /// As it stands, without the newline at its end.
    Comment(Vec<u8>),
    Variable {
        name: String,
        value: String,
    },
}

/// Why bytes are not a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Of another size.
    #[error("Environment block of {0} bytes instead of {SIZE}")]
    Size(usize),
    /// Something else, or blank.
    #[error("No environment block: its first line is missing")]
    Signature,
    /// A line that runs into the padding.
    #[error("The line at byte {offset} has no end")]
    Unterminated {
        /// Where the line begins.
        offset: usize,
    },
    /// Neither a comment nor a variable.
    #[error("The line at byte {offset} is not NAME=VALUE")]
    Line {
        /// Where the line begins.
        offset: usize,
    },
    /// A variable twice: GRUB would take the one when it reads and the other when it writes.
    #[error("{name} is there twice")]
    Duplicate {
        /// The variable.
        name: String,
    },
}

/// Why a variable was not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// GRUB could not read the name back.
    #[error("Not a variable's name: {0:?}")]
    Name(String),
    /// GRUB's strings end at a zero byte.
    #[error("The value of {0} has a zero byte")]
    Zero(String),
    /// No room.
    #[error("{over} bytes too many for the environment block with {name}")]
    Full {
        /// The variable.
        name: String,
        /// What is missing.
        over: usize,
    },
}

impl Block {
    /// Reads a block.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() != SIZE {
            return Err(ParseError::Size(bytes.len()));
        }
        let rest = bytes.strip_prefix(SIGNATURE).ok_or(ParseError::Signature)?;
        let used = rest.iter().rposition(|byte| *byte != b'#').map_or(0, |last| last + 1);
        let mut body = &rest[..used];
        let mut block = Self::default();
        while !body.is_empty() {
            let offset = SIGNATURE.len() + used - body.len();
            let end = line_end(body).ok_or(ParseError::Unterminated { offset })?;
            let line = Line::parse(&body[..end]).ok_or(ParseError::Line { offset })?;
            if let Line::Variable { name, .. } = &line
                && block.get(name).is_some()
            {
                return Err(ParseError::Duplicate { name: clip(name) });
            }
            block.lines.push(line);
            body = &body[end + 1..];
        }
        Ok(block)
    }

    /// The block as it is written.
    pub fn to_bytes(&self) -> [u8; SIZE] {
        let mut bytes = Vec::with_capacity(SIZE);
        bytes.extend_from_slice(SIGNATURE);
        for line in &self.lines {
            line.render(&mut bytes);
        }
        let mut block = [b'#'; SIZE];
        for (to, from) in block.iter_mut().zip(bytes) {
            *to = from;
        }
        block
    }

    /// A variable's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// All variables, in the order they have in the block.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().filter_map(|line| match line {
            Line::Comment(_) => None,
            Line::Variable { name, value } => Some((name.as_str(), value.as_str())),
        })
    }

    /// Sets a variable, where it stood or at the end. Of what does not fit nothing is changed.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SetError> {
        if !is_name(name.as_bytes()) {
            return Err(SetError::Name(clip(name)));
        }
        if value.contains('\0') {
            return Err(SetError::Zero(clip(name)));
        }
        let line = Line::Variable { name: name.to_owned(), value: value.to_owned() };
        let old = self.lines.iter().position(|line| line.is(name));
        let freed = old.and_then(|index| self.lines.get(index)).map_or(0, Line::rendered_len);
        let used = self.used() - freed + line.rendered_len();
        // GRUB finds the end of the lines by the padding: one byte of it stays.
        if used >= SIZE {
            return Err(SetError::Full { name: clip(name), over: used - SIZE + 1 });
        }
        match old.and_then(|index| self.lines.get_mut(index)) {
            Some(old) => *old = line,
            None => self.lines.push(line),
        }
        Ok(())
    }

    /// Takes a variable away; says whether it was there.
    pub fn unset(&mut self, name: &str) -> bool {
        let before = self.lines.len();
        self.lines.retain(|line| !line.is(name));
        self.lines.len() != before
    }

    /// Bytes in use, padding apart.
    pub fn used(&self) -> usize {
        SIGNATURE.len() + self.lines.iter().map(Line::rendered_len).sum::<usize>()
    }
}

impl Line {
    /// Of a line without the newline at its end.
    fn parse(line: &[u8]) -> Option<Self> {
        if line.first() == Some(&b'#') {
            return Some(Self::Comment(line.to_vec()));
        }
        let equals = line.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (line.get(..equals)?, line.get(equals + 1..)?);
        let value = unescape(value);
        if !is_name(name) || value.contains(&0) {
            return None;
        }
        // Other than UTF-8 is nothing we or our boot loader's configuration write.
        Some(Self::Variable {
            name: String::from_utf8(name.to_vec()).ok()?,
            value: String::from_utf8(value).ok()?,
        })
    }

    fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Variable { name, .. } if name == wanted)
    }

    fn render(&self, out: &mut Vec<u8>) {
        match self {
            Self::Comment(bytes) => out.extend_from_slice(bytes),
            Self::Variable { name, value } => {
                out.extend_from_slice(name.as_bytes());
                out.push(b'=');
                for byte in value.bytes() {
                    if matches!(byte, b'\\' | b'\n') {
                        out.push(b'\\');
                    }
                    out.push(byte);
                }
            }
        }
        out.push(b'\n');
    }

    fn rendered_len(&self) -> usize {
        let mut bytes = Vec::new();
        self.render(&mut bytes);
        bytes.len()
    }
}

/// Where the line ends: at the first newline without a backslash before it.
fn line_end(bytes: &[u8]) -> Option<usize> {
    let mut escaped = false;
    bytes.iter().position(|byte| {
        let end = *byte == b'\n' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        end
    })
}

fn unescape(value: &[u8]) -> Vec<u8> {
    let mut bytes = value.iter();
    let mut plain = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        // A line does not end in a lone backslash: it would have hidden the line's end.
        let byte = if *byte == b'\\' { bytes.next() } else { Some(byte) };
        plain.extend(byte);
    }
    plain
}

/// Printable ASCII that cannot be taken for anything else in a block.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.first() != Some(&b'#')
        && name.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'=' | b'\\'))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::process::Command;

    use super::*;
    use proptest::prelude::*;

    /// A block with these bytes behind the first line.
    fn padded(body: &[u8]) -> Vec<u8> {
        let mut bytes = [SIGNATURE, body].concat();
        bytes.resize(SIZE, b'#');
        bytes
    }

    #[test]
    fn what_grub_wrote_is_read() {
        let block =
            Block::parse(&padded(b"# by hand\nsaved_entry=a=b\nempty=\npath=c:\\\\x\\\ny\n")).unwrap();
        let all: Vec<_> = block.variables().collect();
        assert_eq!(all, [("saved_entry", "a=b"), ("empty", ""), ("path", "c:\\x\ny")]);
        assert_eq!(
            block.to_bytes().as_slice(),
            padded(b"# by hand\nsaved_entry=a=b\nempty=\npath=c:\\\\x\\\ny\n")
        );
    }

    #[test]
    fn an_empty_block_is_signature_and_padding() {
        let bytes = Block::default().to_bytes();
        assert_eq!(bytes.as_slice(), padded(b""));
        assert_eq!(Block::parse(&bytes), Ok(Block::default()));
    }

    #[test]
    fn damage_has_a_name() {
        let at = SIGNATURE.len();
        assert_eq!(Block::parse(b""), Err(ParseError::Size(0)));
        assert_eq!(Block::parse(&[0; SIZE]), Err(ParseError::Signature));
        for (body, error) in [
            (b"a=1".as_slice(), ParseError::Unterminated { offset: at }),
            (b"a=1\nb=2\\\n", ParseError::Unterminated { offset: at + 4 }),
            (b"\n", ParseError::Line { offset: at }),
            (b"a=1\nb\n", ParseError::Line { offset: at + 4 }),
            (b"=1\n", ParseError::Line { offset: at }),
            (b"a b=1\n", ParseError::Line { offset: at }),
            (b"a=\xff\n", ParseError::Line { offset: at }),
            (b"a=\0\n", ParseError::Line { offset: at }),
            (b"a=1\na=2\n", ParseError::Duplicate { name: "a".to_owned() }),
        ] {
            assert_eq!(Block::parse(&padded(body)), Err(error), "{body:?}");
        }
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut block = Block::default();
        let most = SIZE - SIGNATURE.len() - "a=\n#".len();
        block.set("a", &"x".repeat(most)).unwrap();
        assert_eq!(block.to_bytes()[SIZE - 2..], *b"\n#");
        let before = block.clone();
        let full = |name: &str, over| Err(SetError::Full { name: name.to_owned(), over });
        assert_eq!(block.set("a", &"x".repeat(most + 1)), full("a", 1));
        assert_eq!(block.set("a", &"\n".repeat(most)), full("a", most));
        assert_eq!(block.set("b", ""), full("b", 3));
        assert_eq!(block.set("b=c", ""), Err(SetError::Name("b=c".to_owned())));
        assert_eq!(block.set("b", "\0"), Err(SetError::Zero("b".to_owned())));
        assert_eq!(block, before);
        block.set("a", "").unwrap();
        block.set("b", "").unwrap();
    }

    /// GRUB's own tool reads what we write, and we read what it writes.
    #[test]
    fn grub_and_we_agree() {
        let run = |arguments: &[&str]| Command::new("grub-editenv").args(arguments).output();
        if run(&["--version"]).is_err() {
            println!("skipped: no grub-editenv (package grub-common)");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grubenv");
        let file = path.to_str().unwrap();
        let mut block = Block::default();
        for (name, value) in
            [("mote_slot", "a"), ("mote_a", "good 1.2.3"), ("odd", "a\\b=c # d"), ("none", "")]
        {
            block.set(name, value).unwrap();
        }
        std::fs::write(&path, block.to_bytes()).unwrap();
        let listed = String::from_utf8(run(&[file, "list"]).unwrap().stdout).unwrap();
        let ours: String = block.variables().map(|(name, value)| format!("{name}={value}\n")).collect();
        assert_eq!(listed, ours);

        for (name, value) in [("mote_slot", "b"), ("mote_tries", "1"), ("odd", "\\\\ e")] {
            assert!(run(&[file, "set", &format!("{name}={value}")]).unwrap().status.success());
            block.set(name, value).unwrap();
        }
        assert!(run(&[file, "unset", "none"]).unwrap().status.success());
        block.unset("none");
        assert_eq!(Block::parse(&std::fs::read(&path).unwrap()), Ok(block.clone()));

        // It fills a block no further than we do.
        let most = SIZE - 1 - block.used() - "x=\n".len();
        for (length, fits) in [(most, true), (most + 1, false)] {
            std::fs::write(&path, block.to_bytes()).unwrap();
            let value = "v".repeat(length);
            assert_eq!(block.clone().set("x", &value).is_ok(), fits);
            let theirs = run(&[file, "set", &format!("x={value}")]).unwrap().status.success();
            assert!(theirs || !fits, "{length} bytes are too many for GRUB");
        }
    }

    proptest! {
        /// Against a map: sets and takes away in any order, what does not fit apart.
        #[test]
        fn a_block_is_a_bounded_map(
            changes in prop::collection::vec(("[a-f]{1,2}", prop::option::of("[a-z=#\\\\\n é]{0,160}")), 0..40)
        ) {
            let mut block = Block::default();
            let mut map = BTreeMap::new();
            for (name, value) in changes {
                match value {
                    None => prop_assert_eq!(block.unset(&name), map.remove(&name).is_some()),
                    Some(value) => {
                        if block.set(&name, &value).is_ok() {
                            map.insert(name, value);
                        } else {
                            let mut full = map.clone();
                            full.insert(name, value);
                            let escapes = |value: &String| value.matches(['\\', '\n']).count();
                            let line = |(name, value): (&String, &String)| name.len() + value.len() + escapes(value) + 2;
                            let size: usize = full.iter().map(line).sum();
                            prop_assert!(size + SIGNATURE.len() + 1 > SIZE);
                        }
                    }
                }
                let bytes = block.to_bytes();
                prop_assert_eq!(Block::parse(&bytes), Ok(block.clone()));
                let padding = bytes.iter().rev().take_while(|byte| **byte == b'#').count();
                prop_assert_eq!(padding, SIZE - block.used());
                let read: BTreeMap<_, _> =
                    block.variables().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                prop_assert_eq!(&read, &map);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(
            prop_oneof![4 => prop::sample::select(b"ab=#\\\n".to_vec()), 1 => any::<u8>()],
            0..=SIZE - SIGNATURE.len(),
        )) {
            if let Ok(block) = Block::parse(&padded(&body)) {
                prop_assert!(block.used() <= SIZE);
                prop_assert_eq!(Block::parse(&block.to_bytes()), Ok(block));
            }
        }

        #[test]
        fn any_block_of_any_bytes_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(Block::parse(&bytes).is_err());
        }
    }
}
