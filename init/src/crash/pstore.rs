//! What the kernel said before it died, from where it keeps that over a restart (`/sys/fs/pstore`: memory, the
//! firmware's variables, ACPI's error store).

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use mote_crash::{Crash, Kind};

/// Where the kernel shows it.
pub const FOLDER: &str = "/sys/fs/pstore";

/// Files looked at, and bytes read of each. The firmware has room for some hundred small ones.
const FILES: usize = 512;
const BYTES: u64 = 128 * 1024;

/// One file: a part of what was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// When it was written, milliseconds since 1970.
    pub unix_ms: u64,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// One crash and the files it was put together from.
#[derive(Debug, PartialEq, Eq)]
pub struct Dump {
    /// The crash.
    pub crash: Crash,
    /// Names of its files.
    pub names: Vec<String>,
}

/// Reads all parts there are.
pub fn read(folder: &Path) -> Vec<Part> {
    let Ok(items) = fs::read_dir(folder) else { return Vec::new() };
    let paths: Vec<PathBuf> = items.take(FILES).filter_map(|item| Some(item.ok()?.path())).collect();
    paths.iter().filter_map(|path| read_part(path)).collect()
}

fn read_part(path: &Path) -> Option<Part> {
    let name = path.file_name()?.to_str()?.to_owned();
    let file = fs::File::open(path).ok()?;
    let written = file.metadata().and_then(|about| about.modified()).unwrap_or(UNIX_EPOCH);
    let mut bytes = Vec::new();
    file.take(BYTES).read_to_end(&mut bytes).ok()?;
    let unix_ms = written.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Some(Part { name, unix_ms: u64::try_from(unix_ms).unwrap_or(u64::MAX), bytes })
}

/// Removes the parts of a dump that was noted: the kernel has little room.
pub fn remove(folder: &Path, names: &[String]) {
    for name in names {
        // It would only be noted again.
        let _ = fs::remove_file(folder.join(name));
    }
}

/// Puts parts together. A part begins with `Panic#2 Part3`: why and for the how-manieth time the kernel wrote, and
/// which part it is, the last words being in the first.
pub fn assemble(parts: &[Part]) -> Vec<Dump> {
    let mut dumps: BTreeMap<(&str, String), Vec<Numbered<'_>>> = BTreeMap::new();
    for part in parts {
        let Some(store) = part.name.strip_prefix("dmesg-").and_then(|rest| rest.split('-').next()) else {
            continue;
        };
        let text = String::from_utf8_lossy(&part.bytes);
        let (key, number, body) = match header(&text) {
            Some((why, number, body)) => (why.to_owned(), number, body),
            // Not as expected: a dump of its own.
            None => (part.name.clone(), 0, &*text),
        };
        dumps.entry((store, key)).or_default().push((number, part, readable(body)));
    }
    dumps.into_values().map(dump).collect()
}

/// What the kernel had said on its consoles when the machine was restarted, crash or not.
pub fn console(parts: &[Part]) -> String {
    let said = parts.iter().filter(|part| part.name.starts_with("console-"));
    said.map(|part| readable(&String::from_utf8_lossy(&part.bytes))).collect()
}

fn readable(text: &str) -> String {
    text.chars().filter(|letter| *letter == '\n' || !letter.is_control()).collect()
}

/// A part's number, the part, and what it says without its header.
type Numbered<'a> = (u32, &'a Part, String);

fn dump(mut parts: Vec<Numbered<'_>>) -> Dump {
    parts.sort_by_key(|(number, ..)| std::cmp::Reverse(*number));
    let text: String = parts.iter().map(|(.., body)| body.as_str()).collect();
    let unix_ms = parts.iter().map(|(_, part, _)| part.unix_ms).max().unwrap_or(0);
    let names = parts.iter().map(|(_, part, _)| part.name.clone()).collect();
    Dump { crash: Crash::new(Kind::Kernel, unix_ms, reason(&text), &text), names }
}

/// `Panic#2`, 3 and the rest of `Panic#2 Part3\n…`.
fn header(text: &str) -> Option<(&str, u32, &str)> {
    let (line, body) = text.split_once('\n')?;
    let (why, part) = line.split_once(" Part")?;
    (why.len() < 40 && why.contains('#')).then_some(())?;
    Some((why, part.trim().parse().ok()?, body))
}

/// The line that says it all.
fn reason(text: &str) -> &str {
    const SIGNS: &[&str] = &[
        "Kernel panic - not syncing",
        "mote: init failed",
        "BUG:",
        "Oops",
        "watchdog:",
        "general protection",
    ];
    // A panic for want of anything better: what it was about stands before it.
    const EMPTY: &str = "Kernel panic - not syncing: Fatal exception";
    // From the sign on: before it is the kernel's `<0>[   12.345678] `.
    let sentence = |sign: &&str| text.lines().find_map(|line| line.find(sign).and_then(|at| line.get(at..)));
    SIGNS
        .iter()
        .filter_map(sentence)
        .find(|sentence| !sentence.starts_with(EMPTY))
        .or_else(|| text.lines().rev().find(|line| !line.trim().is_empty()))
        .unwrap_or("The kernel said nothing")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(name: &str, text: &str) -> Part {
        Part { name: name.to_owned(), unix_ms: 7, bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn parts_are_put_in_order_and_crashes_are_told_apart() {
        let parts = [
            part(
                "dmesg-efi_pstore-1",
                "Panic#1 Part1\n<0>[ 9.1] Kernel panic - not syncing: no\u{1}thing works\n",
            ),
            part("dmesg-efi_pstore-2", "Panic#1 Part2\n<4>[ 8.0] before\n"),
            part("dmesg-ramoops-0", "Oops#1 Part1\n<1>[ 3.0] BUG: null pointer\n"),
            part("console-ramoops-0", "Panic#1 Part1\nnot a dump"),
        ];
        let dumps = assemble(&parts);
        assert_eq!(dumps.len(), 2);
        let efi = &dumps[0];
        assert_eq!(efi.crash.reason, "Kernel panic - not syncing: nothing works");
        assert!(efi.crash.text.starts_with("<4>[ 8.0] before\n<0>"));
        assert_eq!(efi.names, ["dmesg-efi_pstore-2", "dmesg-efi_pstore-1"]);
        assert_eq!(dumps[1].crash.reason, "BUG: null pointer");
        assert_eq!(reason("BUG: a\nKernel panic - not syncing: Fatal exception in interrupt\n"), "BUG: a");
        assert_eq!(console(&parts), "Panic#1 Part1\nnot a dump");
    }

    #[test]
    fn files_are_read_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("dmesg-ramoops-0"), "Panic#1 Part1\nKernel panic - not syncing: x")
            .unwrap();
        let parts = read(folder.path());
        let dumps = assemble(&parts);
        assert_eq!(dumps[0].crash.reason, "Kernel panic - not syncing: x");
        assert!(dumps[0].crash.unix_ms > 1_700_000_000_000);
        remove(folder.path(), &dumps[0].names);
        assert!(read(folder.path()).is_empty() && read(Path::new("/nowhere")).is_empty());
    }

    proptest! {
        #[test]
        fn any_parts_are_safe_and_each_dump_is_in_one_crash(
            parts in prop::collection::vec(("dmesg-[a-z]{1,3}-[0-9]", prop::collection::vec(any::<u8>(), 0..80), 0u32..4), 0..9)
        ) {
            let parts: Vec<Part> = parts.into_iter().enumerate().map(|(at, (name, mut bytes, number))| {
                if number > 0 {
                    bytes.splice(0..0, format!("Panic#1 Part{number}\n").into_bytes());
                }
                Part { name: format!("{name}{at}"), unix_ms: 0, bytes }
            }).collect();
            let dumps = assemble(&parts);
            let names: usize = dumps.iter().map(|dump| dump.names.len()).sum();
            prop_assert_eq!(names, parts.len());
            for dump in dumps {
                prop_assert!(!dump.crash.text.chars().any(|letter| letter.is_control() && letter != '\n'));
            }
        }
    }
}
