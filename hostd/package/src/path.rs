//! What an entry may be called, and how its name is shown.

use std::path::PathBuf;

use crate::{EntryProblem, Limits};

/// Checks a name from a zip and makes it a path relative to the package's root: no `.`, no `..`, nothing empty;
/// only the root itself is the empty path. A trailing slash is dropped.
pub(crate) fn check(name: &[u8], limits: &Limits) -> Result<PathBuf, EntryProblem> {
    if name.len() > limits.path_bytes {
        return Err(EntryProblem::PathTooLong { length: name.len(), limit: limits.path_bytes });
    }
    let name = std::str::from_utf8(name).map_err(|_| EntryProblem::NotUtf8)?;
    if name.is_empty() {
        return Err(EntryProblem::EmptyName);
    }
    if name.chars().any(char::is_control) {
        return Err(EntryProblem::ControlCharacter);
    }
    if name.contains('\\') {
        return Err(EntryProblem::Backslash);
    }
    let mut bytes = name.bytes();
    let drive = bytes.next().is_some_and(|b| b.is_ascii_alphabetic()) && bytes.next() == Some(b':');
    if name.starts_with('/') || (drive && matches!(bytes.next(), None | Some(b'/'))) {
        return Err(EntryProblem::Absolute);
    }
    let mut path = PathBuf::new();
    let mut depth = 0;
    for part in name.strip_suffix('/').unwrap_or(name).split('/') {
        match part {
            "" => return Err(EntryProblem::EmptyName),
            "." => continue,
            ".." => return Err(EntryProblem::ParentDir),
            _ if part.len() > limits.name_bytes => {
                return Err(EntryProblem::NameTooLong { length: part.len(), limit: limits.name_bytes });
            }
            _ => path.push(part),
        }
        depth += 1;
    }
    if depth > limits.depth + 1 {
        return Err(EntryProblem::TooDeep { depth: depth - 1, limit: limits.depth });
    }
    Ok(path)
}

/// A name fit for a message: printable and short.
pub(crate) fn show(name: &[u8]) -> String {
    const SHOWN: usize = 120;
    let text = String::from_utf8_lossy(name);
    let mut shown: String =
        text.chars().take(SHOWN).map(|c| if c.is_control() || c == '\'' { '?' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_their_verdicts() {
        let limits = Limits { path_bytes: 40, name_bytes: 10, depth: 3, ..Limits::default() };
        let accepted: &[(&str, &str)] = &[
            ("app.py", "app.py"),
            ("a/b.py", "a/b.py"),
            ("./a/./b", "a/b"),
            ("dir/", "dir"),
            ("./", ""),
            ("..a/b..", "..a/b.."),
            ("a/b/c/d", "a/b/c/d"),
            ("ünï.py", "ünï.py"),
            ("c:x", "c:x"),
        ];
        for (name, path) in accepted {
            assert_eq!(check(name.as_bytes(), &limits), Ok(PathBuf::from(path)), "{name}");
        }
        let refused: &[(&[u8], EntryProblem)] = &[
            (b"", EntryProblem::EmptyName),
            (b"/", EntryProblem::Absolute),
            (b"/etc/passwd", EntryProblem::Absolute),
            (b"c:/x", EntryProblem::Absolute),
            (b"..", EntryProblem::ParentDir),
            (b"../x", EntryProblem::ParentDir),
            (b"a/../../x", EntryProblem::ParentDir),
            (b"a/..", EntryProblem::ParentDir),
            (b"a//b", EntryProblem::EmptyName),
            (b"a//", EntryProblem::EmptyName),
            (b"a\\b", EntryProblem::Backslash),
            (b"a\0b", EntryProblem::ControlCharacter),
            (b"a\nb", EntryProblem::ControlCharacter),
            (b"a\xff", EntryProblem::NotUtf8),
            (b"aaaaabbbbbc", EntryProblem::NameTooLong { length: 11, limit: 10 }),
            (b"a/b/c/d/e", EntryProblem::TooDeep { depth: 4, limit: 3 }),
        ];
        for (name, problem) in refused {
            assert_eq!(check(name, &limits).as_ref(), Err(problem), "{}", show(name));
        }
        let long = "a/".repeat(21);
        assert_eq!(check(long.as_bytes(), &limits), Err(EntryProblem::PathTooLong { length: 42, limit: 40 }));
    }
}
