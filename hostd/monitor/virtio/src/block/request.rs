//! One request as the guest wrote it, checked for shape but not against the drive.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_queue::DescriptorChain;
use vm_memory::GuestMemoryMmap;

use crate::{Buffers, ChainError};

/// Data segments of one request, as told to the driver.
pub(super) const MAX_SEGMENTS: u32 = 126;

/// Largest data segment, bytes, as told to the driver.
pub(super) const MAX_SEGMENT_BYTES: u32 = 128 * 1024;

/// Descriptors of a chain: the data, a header and a status, both with room for a driver that splits them.
const CHAIN_LIMIT: usize = 126 + 4;

/// Bytes of the header: type, reserved, sector.
const HEADER: usize = 16;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Read into the guest.
    In,
    /// Write from the guest.
    Out,
    /// Make written data durable.
    Flush,
    /// The drive's serial number.
    GetId,
    /// Something not offered.
    Unsupported,
}

/// A request and its guest buffers.
#[derive(Debug)]
pub(super) struct Request<'m> {
    pub(super) kind: Kind,
    /// First sector.
    pub(super) sector: u64,
    source: Buffers<'m>,
    target: Buffers<'m>,
    status_at: usize,
}

impl<'m> Request<'m> {
    /// # Errors
    /// There is no header, or no place for a status.
    pub(super) fn parse(
        mem: &'m GuestMemoryMmap,
        chain: DescriptorChain<&GuestMemoryMmap>,
    ) -> Result<Self, ChainError> {
        let (source, target) = Buffers::split(mem, chain, CHAIN_LIMIT)?;
        let mut header = [0u8; HEADER];
        if source.read_at(0, &mut header) != HEADER {
            return Err(ChainError::Broken);
        }
        let status_at = target.len().checked_sub(1).ok_or(ChainError::Broken)?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let kind = match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN => Kind::In,
            VIRTIO_BLK_T_OUT => Kind::Out,
            VIRTIO_BLK_T_FLUSH => Kind::Flush,
            VIRTIO_BLK_T_GET_ID => Kind::GetId,
            _ => Kind::Unsupported,
        };
        Ok(Self { kind, sector: u64::from_le_bytes(sector), source, target, status_at })
    }

    /// Bytes of data to be moved.
    pub(super) fn data_len(&self) -> usize {
        match self.kind {
            Kind::Out => self.source.len().saturating_sub(HEADER),
            _ => self.status_at,
        }
    }

    /// The data from byte `from` on, for a vectored system call.
    pub(super) fn data(&self, from: usize) -> Vec<libc::iovec> {
        let len = self.data_len().saturating_sub(from);
        match self.kind {
            Kind::Out => self.source.iovecs(HEADER.saturating_add(from), len),
            _ => self.target.iovecs(from, len),
        }
    }

    /// Copies `bytes` to the start of a read's data, at byte `at`; returns how many had room.
    pub(super) fn write(&self, at: usize, bytes: &[u8]) -> usize {
        let room = self.status_at.saturating_sub(at).min(bytes.len());
        self.target.write_at(at, bytes.get(..room).unwrap_or_default())
    }

    /// Writes the status byte.
    pub(super) fn finish(&self, status: u8) {
        self.target.write_at(self.status_at, &[status]);
    }
}
