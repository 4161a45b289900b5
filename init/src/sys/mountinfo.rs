//! What is mounted, and the order to take it down in. Pure, apart from reading the file.

use std::collections::HashMap;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Mount points that stay until the machine is off: nothing on them outlives it.
const KEEP: &[&str] = &["/", "/proc", "/sys", "/dev", "/run"];

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The mount's number.
    pub id: u32,
    /// The number of the mount it stands on.
    pub parent: u32,
    /// Whether a block device is behind it.
    pub on_device: bool,
    /// Where.
    pub target: PathBuf,
    /// Kind of file system.
    pub kind: String,
}

/// Parses the whole file; lines that cannot be understood are left out.
pub fn parse(text: &[u8]) -> Vec<Mounted> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let id = text()?.parse().ok()?;
    let parent = text()?.parse().ok()?;
    let (major, _minor) = text()?.split_once(':')?;
    let on_device = major.parse::<u32>().ok()? != 0;
    let _root = text()?;
    let target = fields.next().filter(|target| target.starts_with(b"/"))?;
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mounted {
        id,
        parent,
        on_device,
        target: PathBuf::from(std::ffi::OsString::from_vec(unescape(target))),
        kind: String::from_utf8_lossy(kind).into_owned(),
    })
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten().and_then(|digits| {
            digits.iter().try_fold(0_u8, |value, digit| {
                let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
                value.checked_mul(8)?.checked_add(digit)
            })
        });
        match octal {
            Some(byte) => {
                plain.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

/// What to unmount, in order: whatever stands on something goes before it, later mounts before earlier.
pub fn unmount_order(mounts: &[Mounted]) -> Vec<&Mounted> {
    let parents: HashMap<u32, u32> = mounts.iter().map(|mount| (mount.id, mount.parent)).collect();
    let depth = |mount: &Mounted| {
        let mut depth = 0_usize;
        let mut at = mount.id;
        // A chain longer than the list would be a circle.
        while let Some(parent) = parents.get(&at).filter(|parent| **parent != at) {
            at = *parent;
            depth += 1;
            if depth > mounts.len() {
                break;
            }
        }
        depth
    };
    let mut order: Vec<(usize, usize, &Mounted)> = mounts
        .iter()
        .enumerate()
        .filter(|(_, mount)| !KEEP.iter().any(|keep| mount.target.as_os_str() == *keep))
        .map(|(position, mount)| (depth(mount), position, mount))
        .collect();
    order.sort_by_key(|(depth, position, _)| std::cmp::Reverse((*depth, *position)));
    order.into_iter().map(|(_, _, mount)| mount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: &[u8] = b"22 21 0:20 / / rw,nosuid - tmpfs tmpfs rw,size=16384k
23 22 0:21 / /proc rw - proc proc rw
24 22 0:22 / /run rw shared:2 - tmpfs tmpfs rw
25 22 254:1 / /system ro - erofs /dev/vda1 ro
26 22 254:17 / /data rw,noatime - ext4 /dev/vdb1 rw,commit=5
27 26 0:30 / /data/a\\040b rw - overlay overlay rw
28 24 7:0 / /run/image ro - squashfs /dev/loop0 ro
rubbish
";

    #[test]
    fn lines_are_read_and_rubbish_is_not() {
        let mounts = parse(SAMPLE);
        assert_eq!(mounts.len(), 7);
        assert_eq!(mounts[5].target, PathBuf::from("/data/a b"));
        assert_eq!(mounts[4].kind, "ext4");
        assert!(mounts[4].on_device && !mounts[5].on_device);
    }

    #[test]
    fn children_go_first_and_the_kept_stay() {
        let mounts = parse(SAMPLE);
        let order: Vec<String> =
            unmount_order(&mounts).iter().map(|mount| mount.target.display().to_string()).collect();
        assert_eq!(order, ["/run/image", "/data/a b", "/data", "/system"]);
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(b"a\\040b\\134c"), b"a b\\c");
        assert_eq!(unescape(b"\\9\\04"), b"\\9\\04");
        assert_eq!(unescape(b"\\777"), b"\\777");
    }

    proptest! {
        #[test]
        fn any_bytes_parse(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            unmount_order(&parse(&text));
        }

        #[test]
        fn every_mount_goes_before_the_one_it_stands_on(parents in proptest::collection::vec(0usize..20, 1..20)) {
            let mounts: Vec<Mounted> = parents
                .iter()
                .enumerate()
                .map(|(at, parent)| Mounted {
                    id: u32::try_from(at).unwrap() + 1,
                    // Any earlier mount, or an unknown one: the kernel lists them in no promised order.
                    parent: u32::try_from((*parent).min(at)).unwrap(),
                    on_device: true,
                    target: PathBuf::from(format!("/m{at}")),
                    kind: "ext4".to_owned(),
                })
                .collect();
            let order = unmount_order(&mounts);
            prop_assert_eq!(order.len(), mounts.len());
            for (at, mount) in order.iter().enumerate() {
                prop_assert!(!order[at..].iter().any(|later| later.parent == mount.id));
            }
        }
    }
}
