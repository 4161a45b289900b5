//! A descriptor chain as bounded lists of guest buffers.

use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

/// A chain that cannot be used. The guest wrote it; nobody but the guest is hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// More descriptors than the device takes.
    #[error("Chain has more than {0} segments")]
    TooLong(usize),
    /// A descriptor points outside guest memory.
    #[error("Segment at {addr:#x} of {len} bytes lies outside guest memory")]
    OutOfMemory {
        /// Guest address.
        addr: u64,
        /// Bytes.
        len: u32,
    },
    /// The chain ends in the middle, or has no descriptor at all.
    #[error("Chain is broken off")]
    Broken,
    /// A device-readable descriptor after a device-writable one.
    #[error("Readable segment after a writable one")]
    Order,
}

/// Guest buffers that follow one another: a stream of bytes scattered over guest memory.
///
/// The virtio specification leaves the framing to the driver, so no device looks at single descriptors.
#[derive(Debug, Default)]
pub struct Buffers<'m> {
    slices: Vec<VolatileSlice<'m>>,
    len: usize,
}

impl<'m> Buffers<'m> {
    /// Splits a chain into its readable and its writable part, at most `limit` segments in all.
    ///
    /// # Errors
    /// See [`ChainError`]; no guest memory was touched then.
    pub fn split(
        mem: &'m GuestMemoryMmap,
        mut chain: DescriptorChain<&GuestMemoryMmap>,
        limit: usize,
    ) -> Result<(Buffers<'m>, Buffers<'m>), ChainError> {
        let (mut readable, mut writable) = (Buffers::default(), Buffers::default());
        let mut more = true;
        let mut count = 0usize;
        while more {
            let desc = chain.next().ok_or(ChainError::Broken)?;
            count += 1;
            if count > limit {
                return Err(ChainError::TooLong(limit));
            }
            more = desc.has_next();
            let (target, access) = if desc.is_write_only() {
                (&mut writable, Permissions::Write)
            } else if writable.slices.is_empty() {
                (&mut readable, Permissions::Read)
            } else {
                return Err(ChainError::Order);
            };
            let bad = ChainError::OutOfMemory { addr: desc.addr().0, len: desc.len() };
            let len = usize::try_from(desc.len()).map_err(|_| bad)?;
            if len == 0 {
                continue;
            }
            for slice in mem.get_slices(desc.addr(), len, access).map_err(|_| bad)? {
                target.push(slice.map_err(|_| bad)?);
            }
        }
        Ok((readable, writable))
    }

    fn push(&mut self, slice: VolatileSlice<'m>) {
        // Bounded: a chain has at most 2^32 bytes.
        self.len = self.len.saturating_add(slice.len());
        self.slices.push(slice);
    }

    /// Bytes in all buffers together.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No byte at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies bytes at `offset` out of the guest; returns how many there were.
    pub fn read_at(&self, offset: usize, data: &mut [u8]) -> usize {
        let mut done = 0;
        for part in self.parts(offset, data.len()) {
            let Some(target) = data.get_mut(done..) else { break };
            match part.read(target, 0) {
                Ok(n) => done += n,
                Err(_) => break,
            }
        }
        done
    }

    /// Copies `data` into the guest at `offset`; returns how many bytes had room.
    pub fn write_at(&self, offset: usize, data: &[u8]) -> usize {
        let mut done = 0;
        for part in self.parts(offset, data.len()) {
            let Some(source) = data.get(done..) else { break };
            match part.write(source, 0) {
                Ok(n) => done += n,
                Err(_) => break,
            }
        }
        done
    }

    /// The pieces that make up bytes `offset..offset + len`, cut off at the end of the buffers.
    pub fn parts(&self, offset: usize, len: usize) -> impl Iterator<Item = VolatileSlice<'m>> + '_ {
        let mut skip = offset;
        let mut left = len;
        self.slices.iter().filter_map(move |slice| {
            if left == 0 {
                return None;
            }
            if skip >= slice.len() {
                skip -= slice.len();
                return None;
            }
            let take = left.min(slice.len() - skip);
            let part = slice.subslice(skip, take).ok()?;
            skip = 0;
            left -= take;
            Some(part)
        })
    }

    /// The same as [`parts`](Self::parts) as an array for `preadv`, `writev` and their like.
    ///
    /// The pointers are valid as long as the guest memory borrowed by `self`; the memory may change under the
    /// kernel's hands at any time, which is fine for a system call and for nothing else.
    pub fn iovecs(&self, offset: usize, len: usize) -> Vec<libc::iovec> {
        self.parts(offset, len)
            .map(|part| libc::iovec { iov_base: part.ptr_guard_mut().as_ptr().cast(), iov_len: part.len() })
            .collect()
    }
}
