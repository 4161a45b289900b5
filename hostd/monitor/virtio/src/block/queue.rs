//! The request queue: parse, carry out, answer.

use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP};

use super::disk::{Disk, IoError};
use super::request::{Kind, Request};
use crate::DeviceIo;

/// Entries of the one queue.
pub(super) const SIZE: u16 = 256;

/// Bytes of the serial number in the protocol.
pub(super) const ID_BYTES: usize = 20;

/// Requests served before the other devices have their turn.
const BUDGET: u16 = 32;

pub(super) fn serve(index: usize, io: &mut DeviceIo, disk: &Disk, id: &[u8; ID_BYTES]) {
    io.serve(index, BUDGET, |mem, chain| {
        // Without a status byte there is nothing to answer; the driver gets its chain back.
        let Ok(request) = Request::parse(mem, chain) else { return Some(0) };
        let (status, written) = match execute(&request, disk, id) {
            Ok(Some(written)) => (VIRTIO_BLK_S_OK, written),
            Ok(None) => (VIRTIO_BLK_S_UNSUPP, 0),
            Err(_) => (VIRTIO_BLK_S_IOERR, 0),
        };
        request.finish(u8::try_from(status).unwrap_or(1));
        Some(u32::try_from(written).unwrap_or(0).saturating_add(1))
    });
}

/// Bytes written to the guest, or `None` for a request that is not offered.
fn execute(request: &Request<'_>, disk: &Disk, id: &[u8; ID_BYTES]) -> Result<Option<usize>, IoError> {
    match request.kind {
        Kind::In => disk.read(request).map(Some),
        Kind::Out => disk.write(request).map(|()| Some(0)),
        Kind::Flush => disk.flush().map(|()| Some(0)),
        Kind::GetId => Ok(Some(request.write(0, id))),
        Kind::Unsupported => Ok(None),
    }
}
