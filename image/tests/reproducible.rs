//! The same content gives the same image, whatever the order and the time in which it was written.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use mote_image::erofs::{self, Compression};

const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";

fn tree(root: &Path, order: impl Iterator<Item = u32>) {
    for index in order {
        let folder = root.join(format!("folder{}", index % 7));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("file{index}")), index.to_string().repeat(3000)).unwrap();
    }
}

#[test]
fn a_file_system_depends_on_its_content_only() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    tree(&a, 0..200);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    tree(&b, (0..200).rev());
    for compression in [Compression::None, Compression::Lz4] {
        let images = [&a, &b].map(|tree| {
            let image = tree.with_extension("erofs");
            erofs::make(tree, &image, UUID, compression).unwrap();
            std::fs::read(image).unwrap()
        });
        assert!(images[0] == images[1], "{compression:?} is not reproducible");
    }
    std::fs::write(a.join("folder0/file0"), "other").unwrap();
    let image = dir.path().join("other.erofs");
    erofs::make(&a, &image, UUID, Compression::None).unwrap();
    assert!(std::fs::read(image).unwrap() != std::fs::read(b.with_extension("erofs")).unwrap());
}
