//! The order to wipe the data partition: hostd or the boot loader's menu gives it, init carries it out at the next boot,
//! before the partition is mounted.
//!
//! It stands in the last MiB of the partition, which no file system of ours reaches into, and goes when all is done:
//! what was begun is finished at the next boot, whenever the power goes. So that it does not matter what is left of the file
//! system meanwhile, what is to be kept of it is copied into the order before anything is wiped.
//!
//! ```text
//! nothing ── asked ──> Asked ── init has what is to be kept ──> Begun(kept) ── wiped, made anew, kept restored ──> nothing
//! ```
//!
//! A sector says what is to be done and has a digest of all; what is kept follows and is written first. One that is torn, or
//! none of ours, is no order.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

/// Bytes at the end of the partition that no file system has. Smaller partitions than two of these take no order.
pub const TAIL: u64 = 1 << 20;

/// Where in there it is: init's own note about formatting is at the begin.
const AT: u64 = 64 << 10;

/// The first page has its head, in one sector; the others have what is kept.
const PAGE: usize = 4096;

/// Most bytes that can be kept.
pub const MOST_KEPT: usize = 512 << 10;

const MAGIC: &[u8; 16] = b"MOTE: reset v1\n\0";
const DIGEST: usize = 32;
/// Magic, what, stage, two zeros, length, digest.
const HEAD: usize = MAGIC.len() + 8 + DIGEST;

/// What is wiped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Functions, snapshots, logs and records; what the API has set stays.
    Data,
    /// That, too.
    Factory,
}

impl What {
    /// By its name.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "data" => Some(Self::Data),
            "factory" => Some(Self::Factory),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Factory => "factory",
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Data => b'd',
            Self::Factory => b'f',
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// All that was there is there.
    Asked,
    /// Whatever is left of the file system does not count any more; this is to be in the new one.
    Begun(Vec<u8>),
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What is wiped.
    pub what: What,
    /// How far it is.
    pub stage: Stage,
}

/// Why an order cannot be read, given or taken back.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// The disk fails.
    #[error("Cannot {0} the order to wipe the partition")]
    Io(&'static str, #[source] io::Error),
    /// There is no place for it.
    #[error("A partition of {0} bytes has no room for an order to wipe it")]
    Small(u64),
    /// More than there is room for.
    #[error("Cannot keep {0} bytes, only {MOST_KEPT}")]
    Large(usize),
}

/// The order on a partition of `size` bytes, if there is one.
pub fn read(device: &File, size: u64) -> Result<Option<Order>, ResetError> {
    let at = place(size)?;
    let mut page = [0; PAGE];
    let failed = |error| ResetError::Io("read", error);
    device.read_exact_at(&mut page, at).map_err(failed)?;
    let Some((what, begun, length, digest)) = parse(&page) else { return Ok(None) };
    let mut kept = vec![0; length];
    device.read_exact_at(&mut kept, at + PAGE as u64).map_err(failed)?;
    if digest != digest_of(&page, &kept) {
        return Ok(None);
    }
    let stage = if begun { Stage::Begun(kept) } else { Stage::Asked };
    Ok(Some(Order { what, stage }))
}

/// Gives an order, in place of one that was given before; it is on the disk when this returns.
pub fn write(device: &File, size: u64, order: &Order) -> Result<(), ResetError> {
    let place = place(size)?;
    for (at, bytes) in steps(order)? {
        let put = device.write_all_at(&bytes, place + at).and_then(|()| device.sync_data());
        put.map_err(|error| ResetError::Io("write", error))?;
    }
    Ok(())
}

/// What is written for an order, each durably before the next: where, from its place on, and what.
fn steps(order: &Order) -> Result<[(u64, Vec<u8>); 2], ResetError> {
    let (stage, kept) = match &order.stage {
        Stage::Asked => (b'a', [].as_slice()),
        Stage::Begun(kept) => (b'b', kept.as_slice()),
    };
    let length = u32::try_from(kept.len()).ok().filter(|_| kept.len() <= MOST_KEPT);
    let length = length.ok_or(ResetError::Large(kept.len()))?;
    let mut page = [0; PAGE];
    let fields = [order.what.byte(), stage, 0, 0];
    let (front, _) = page.split_at_mut(HEAD);
    let head = MAGIC.iter().copied().chain(fields).chain(length.to_le_bytes());
    front.iter_mut().zip(head).for_each(|(to, from)| *to = from);
    let digest = digest_of(&page, kept);
    page.iter_mut().skip(HEAD - DIGEST).zip(digest).for_each(|(to, from)| *to = from);
    // While the head is the old one, what is kept is no part of any order: what was only asked for keeps nothing.
    Ok([(PAGE as u64, kept.to_vec()), (0, page.to_vec())])
}

/// Takes an order back, or says that it is done. What it kept is not left behind.
pub fn clear(device: &File, size: u64) -> Result<(), ResetError> {
    let at = place(size)?;
    let failed = |error| ResetError::Io("remove", error);
    device.write_all_at(&[0; PAGE], at).and_then(|()| device.sync_data()).map_err(failed)?;
    let zeros = vec![0; MOST_KEPT];
    device.write_all_at(&zeros, at + PAGE as u64).and_then(|()| device.sync_data()).map_err(failed)
}

fn place(size: u64) -> Result<u64, ResetError> {
    if size < 2 * TAIL {
        return Err(ResetError::Small(size));
    }
    Ok(size - TAIL + AT)
}

/// What the head says: what, whether it was begun, the length of what is kept, the digest.
fn parse(page: &[u8]) -> Option<(What, bool, usize, [u8; DIGEST])> {
    let (magic, rest) = page.split_at_checked(MAGIC.len())?;
    let (fields, rest) = rest.split_at_checked(8)?;
    let [what, stage, 0, 0, a, b, c, d] = *fields else { return None };
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
    let what = [What::Data, What::Factory].into_iter().find(|one| one.byte() == what)?;
    let begun = match stage {
        b'a' => false,
        b'b' => true,
        _ => return None,
    };
    let digest = rest.get(..DIGEST)?.try_into().ok()?;
    let sound = magic == MAGIC && length <= MOST_KEPT && (begun || length == 0);
    sound.then_some((what, begun, length, digest))
}

/// Of the head up to the digest, and of what is kept.
fn digest_of(page: &[u8], kept: &[u8]) -> [u8; DIGEST] {
    let head = page.get(..HEAD - DIGEST).unwrap_or_default();
    Sha256::new().chain_update(head).chain_update(kept).finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 4 * TAIL;

    fn partition() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        file
    }

    fn bytes(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn begun(what: What, kept: &[u8]) -> Order {
        Order { what, stage: Stage::Begun(kept.to_vec()) }
    }

    #[test]
    fn an_order_stands_until_it_is_done_and_leaves_no_trace() {
        let partition = partition();
        assert_eq!(read(&partition, SIZE).unwrap(), None);
        let asked = Order { what: What::Data, stage: Stage::Asked };
        for order in [asked, begun(What::Data, b"secret"), begun(What::Factory, b"")] {
            write(&partition, SIZE, &order).unwrap();
            assert_eq!(read(&partition, SIZE).unwrap(), Some(order));
        }
        clear(&partition, SIZE).unwrap();
        assert_eq!(read(&partition, SIZE).unwrap(), None);
        assert!(bytes(&partition).iter().all(|byte| *byte == 0));
    }

    #[test]
    fn nothing_outside_of_its_place_is_touched() {
        let partition = partition();
        let all = vec![7; usize::try_from(SIZE).unwrap()];
        partition.write_all_at(&all, 0).unwrap();
        write(&partition, SIZE, &begun(What::Data, &vec![1; MOST_KEPT])).unwrap();
        clear(&partition, SIZE).unwrap();
        let after = bytes(&partition);
        let from = usize::try_from(SIZE - TAIL + AT).unwrap();
        let to = from + PAGE + MOST_KEPT;
        assert!(after[..from].iter().chain(&after[to..]).all(|byte| *byte == 7));
        assert!(to < after.len() && after[from..to].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_was_asked_for_is_that_or_what_was_begun_wherever_the_power_goes() {
        let asked = Order { what: What::Data, stage: Stage::Asked };
        let next = begun(What::Data, b"[sandbox]\nvcpus = 2\n");
        let partition = partition();
        write(&partition, SIZE, &asked).unwrap();
        let steps = steps(&next).unwrap();
        for (done, (at, bytes)) in steps.iter().enumerate() {
            // A disk writes the sectors of one step in any order, and each of them whole or not at all.
            let mut sectors: Vec<_> = bytes.chunks(512).enumerate().collect();
            sectors.reverse();
            for (number, sector) in sectors {
                assert!(read(&partition, SIZE).unwrap().is_some_and(|order| order == asked || order == next));
                let at = SIZE - TAIL + AT + at + 512 * number as u64;
                partition.write_all_at(sector, at).unwrap();
            }
            let expected = if done + 1 == steps.len() { &next } else { &asked };
            assert_eq!(read(&partition, SIZE).unwrap().as_ref(), Some(expected));
        }
    }

    #[test]
    fn a_flipped_bit_is_no_order() {
        let partition = partition();
        write(&partition, SIZE, &begun(What::Factory, b"kept")).unwrap();
        let sound = bytes(&partition);
        let at = usize::try_from(SIZE - TAIL + AT).unwrap();
        for at in (at..at + HEAD).chain(at + PAGE..at + PAGE + 4) {
            for bit in 0..8 {
                partition.write_all_at(&[sound[at] ^ (1 << bit)], at as u64).unwrap();
                assert_eq!(read(&partition, SIZE).unwrap(), None, "bit {bit} of byte {at}");
            }
            partition.write_all_at(&[sound[at]], at as u64).unwrap();
        }
    }

    #[test]
    fn limits_are_told() {
        let partition = partition();
        assert!(matches!(read(&partition, 2 * TAIL - 1), Err(ResetError::Small(_))));
        assert!(matches!(clear(&partition, 0), Err(ResetError::Small(0))));
        let large = begun(What::Data, &vec![1; MOST_KEPT + 1]);
        assert!(matches!(write(&partition, SIZE, &large), Err(ResetError::Large(_))));
        assert!(bytes(&partition).iter().all(|byte| *byte == 0));
        // A disk that is shorter than was said.
        assert!(matches!(read(&partition, 2 * SIZE), Err(ResetError::Io("read", _))));
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for what in [What::Data, What::Factory] {
            assert_eq!(What::of(&what.to_string()), Some(what));
        }
        assert_eq!(What::of("Data"), None);
    }

    proptest! {
        // Each is on a disk, and waited for.
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_read(head in prop::collection::vec(any::<u8>(), 0..200), sound in any::<bool>()) {
            let partition = partition();
            let bytes = if sound { [MAGIC.as_slice(), &head].concat() } else { head };
            partition.write_all_at(&bytes, SIZE - TAIL + AT).unwrap();
            prop_assert_eq!(read(&partition, SIZE).unwrap(), None);
        }

        #[test]
        fn what_is_kept_comes_back(kept in prop::collection::vec(any::<u8>(), 0..9000)) {
            let partition = partition();
            let order = begun(What::Data, &kept);
            write(&partition, SIZE, &order).unwrap();
            prop_assert_eq!(read(&partition, SIZE).unwrap(), Some(order));
        }
    }
}
