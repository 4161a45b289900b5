//! What the fuzz targets share: the crate's own test driver.

pub use mote_virtio::*;

#[path = "../../src/testing.rs"]
#[allow(dead_code)]
pub mod testing;

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use testing::{BUFFERS, MEMORY, SEAM};

/// A socket device below `folder`.
pub fn vsock(folder: &Path) -> Box<dyn VirtioDevice> {
    let path = folder.join("v");
    let config = VsockConfig { cid: 3, listener: VsockListener::Bind, path };
    Box::new(Vsock::new(config).expect("a socket device"))
}

/// A writable drive below `folder`.
pub fn block(folder: &Path) -> Box<dyn VirtioDevice> {
    let path = folder.join("drive");
    std::fs::write(&path, [7; 16 * 512]).expect("a drive");
    let config = BlockConfig { path, read_only: false, id: "fuzz".to_owned(), sectors: None };
    Box::new(Block::open(&config).expect("a block device"))
}

/// A network device whose frames go nowhere.
pub fn net() -> (Box<dyn VirtioDevice>, UnixDatagram) {
    let (queue, outside) = UnixDatagram::pair().expect("two ends");
    let limit = net::Limit::default();
    let (v4, v6) = ([10, 64, 0, 2].into(), [0xfd6d, 0, 0, 0, 0, 0, 0, 2].into());
    let link = NetLink { queue: queue.into(), v4, v6, tx: limit, rx: limit };
    let config = NetConfig { mac: [2, 0, 0, 0, 0, 0], mtu: 1500, link: Some(link) };
    (Box::new(Net::new(config).expect("a network device")), outside)
}

/// An address that is more often interesting than not.
pub fn address(kind: u8, raw: u64) -> u64 {
    match kind % 6 {
        0 => BUFFERS + raw % 0x10000,
        1 => SEAM - raw % 0x100,
        2 => MEMORY - raw % 0x100,
        // The rings themselves.
        3 => 0x10000 + raw % 0x40000,
        4 => u64::MAX - raw % 0x100,
        _ => raw,
    }
}
