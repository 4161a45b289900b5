//! Requests of the entropy device: fill what is writable.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use virtio_queue::DescriptorChain;
use vm_memory::GuestMemoryMmap;

use crate::{Buffers, DeviceIo};

/// Entries of the one queue; Linux has one request outstanding.
pub(super) const SIZE: u16 = 64;

/// Segments taken in one request.
const MAX_SEGMENTS: usize = 16;

/// Bytes given for one request. More than any driver asks for; a larger request is answered in part.
pub(super) const MAX_BYTES: usize = 4096;

/// Requests served before the other devices have their turn.
const BUDGET: u16 = 16;

pub(super) fn serve(index: usize, io: &mut DeviceIo) {
    io.serve(index, BUDGET, |mem, chain| Some(fill(mem, chain)));
}

/// Bytes of randomness written; none for a chain without room.
fn fill(mem: &GuestMemoryMmap, chain: DescriptorChain<&GuestMemoryMmap>) -> u32 {
    let Ok((_, target)) = Buffers::split(mem, chain, MAX_SEGMENTS) else { return 0 };
    let wanted = target.len().min(MAX_BYTES);
    let mut random = [0u8; 256];
    let mut done = 0;
    while done < wanted {
        let want = random.len().min(wanted - done);
        // The host's generator is ready long before a microVM starts: this never blocks.
        match getrandom(&mut random[..want], GetRandomFlags::empty()) {
            Ok(got) if got > 0 => done += target.write_at(done, &random[..got]),
            Err(Errno::INTR) => {}
            _ => break,
        }
    }
    u32::try_from(done).unwrap_or(0)
}
