//! Tests: pages are given back from memory of every kind it is made of.

#![expect(clippy::cast_possible_truncation, reason = "the tests' sizes are small")]

use mote_virtio::balloon::give_back;
use vm_memory::{Bytes, GuestAddress};

use super::ram::GuestRam;
use super::restore::tests::{MODES, SIZE, info, options, snapshot};
use super::restore::{RestoreMode, RestoreOptions, restore};
use super::{Handler, dump, pagemap, touched_pages};
use crate::memory::pagemap::Entry;

const PAGE: usize = 4096;
const PAGES: u64 = SIZE / 4096;

fn own(ram: &GuestRam) -> usize {
    let entries = ram.ranges().iter().flat_map(|range| pagemap::entries(range).unwrap());
    entries.filter(|entry| *entry == Entry::Own).count()
}

fn page(ram: &GuestRam, page: u64) -> Vec<u8> {
    let mut bytes = vec![0; PAGE];
    ram.memory().read_slice(&mut bytes, GuestAddress(page * 4096)).unwrap();
    bytes
}

fn write(ram: &GuestRam, pages: std::ops::Range<u64>, value: u8) {
    for page in pages {
        ram.memory().write_slice(&[value; PAGE], GuestAddress(page * 4096)).unwrap();
    }
}

#[test]
fn anonymous_memory_reads_as_zeros() {
    let ram = GuestRam::new(SIZE).unwrap();
    write(&ram, 0..1000, 7);
    give_back(ram.memory(), &[10..500, 600..601]);
    assert_eq!(own(&ram), 1000 - 491);
    assert_eq!(
        (page(&ram, 9), page(&ram, 10), page(&ram, 500)),
        (vec![7; PAGE], vec![0; PAGE], vec![7; PAGE])
    );
    // What is no memory of the guest's is passed over.
    give_back(ram.memory(), &[PAGES - 1..PAGES + 1, PAGES..PAGES + 1, u64::MAX - 1..u64::MAX, 5..5]);
    assert_eq!(page(&ram, 5), vec![7; PAGE]);
}

#[test]
fn parts_of_large_pages_are_given_back() {
    let ram = GuestRam::new(SIZE).unwrap();
    super::populate::large_pages(ram.ranges());
    write(&ram, 0..PAGES, 7);
    give_back(ram.memory(), &[3..300, 512..1536, 1700..1701]);
    // Not in large pages that are only a part of: those are kept, but for the pages named.
    assert_eq!(own(&ram) as u64, PAGES - 297 - 1024 - 1);
    assert_eq!(
        (page(&ram, 2), page(&ram, 3), page(&ram, 300)),
        (vec![7; PAGE], vec![0; PAGE], vec![7; PAGE])
    );
}

/// In every mode: what was written is freed, what is seen again is the snapshot's, and can be written again.
#[test]
fn restored_memory_is_the_snapshot_s_again() {
    let dir = tempfile::tempdir().unwrap();
    let (content, checksum) = snapshot(dir.path());
    let snapshot_page = |at: u64| content[at as usize * PAGE..(at as usize + 1) * PAGE].to_vec();
    for mode in MODES {
        for record in [false, true] {
            let restored =
                restore(dir.path(), &info(SIZE, &checksum), None, RestoreOptions { record, ..options(mode) });
            let restored = restored.unwrap();
            let ram = restored.ram;
            let _handler: Option<Handler> =
                restored.paged.map(|paged| paged.serve(|error| panic!("{error}")).unwrap());
            // Pages with content, zero pages, and both sides of each.
            write(&ram, 1900..3100, 9);
            let before = own(&ram);
            give_back(ram.memory(), &[1950..2050, 2990..3050]);
            let freed = before - own(&ram);
            assert_eq!(freed, 160, "{mode:?}");
            for at in [1950, 2000, 2049, 2990, 3049] {
                assert_eq!(page(&ram, at), snapshot_page(at), "{mode:?}, page {at}");
            }
            for at in [1949, 2050, 2989, 3050] {
                assert_eq!(page(&ram, at), vec![9; PAGE], "{mode:?}, page {at}");
            }
            write(&ram, 1950..2050, 3);
            assert_eq!(page(&ram, 2000), vec![3; PAGE], "{mode:?}");
        }
    }
}

/// A snapshot taken meanwhile has of such pages what the files say: it can be restored, and the rest is as it was.
#[test]
fn a_snapshot_with_pages_given_back_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (content, checksum) = snapshot(dir.path());
    for mode in MODES {
        let restored = restore(dir.path(), &info(SIZE, &checksum), None, options(mode)).unwrap();
        let _handler = restored.paged.map(|paged| paged.serve(|error| panic!("{error}")).unwrap());
        let ram = restored.ram;
        write(&ram, 100..200, 9);
        give_back(ram.memory(), &[120..150, 150..180]);
        assert!(
            touched_pages(&ram).unwrap().written.iter().all(|page| page != 150),
            "{mode:?}: it counts as never touched"
        );
        let folder = tempfile::tempdir().unwrap();
        let dumped = dump(&ram, &folder.path().join("memory"), None).unwrap();
        let again = restore(folder.path(), &info(SIZE, &dumped.checksum), None, options(RestoreMode::Lazy));
        let again = again.unwrap().ram;
        for at in 0..PAGES {
            let expected = match at {
                100..120 | 180..200 => vec![9; PAGE],
                _ => content[at as usize * PAGE..(at as usize + 1) * PAGE].to_vec(),
            };
            assert!(page(&again, at) == expected, "{mode:?}, page {at}");
        }
    }
}
