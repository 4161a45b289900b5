//! Clock, randomness and name of this sandbox and no other.

use std::fs::File;
use std::path::Path;

use mote_protocol::Identity;
use rustix::ioctl::{NoArg, Opcode, Setter, ioctl, opcode};
use rustix::system::sethostname;
use rustix::time::{ClockId, Timespec, clock_settime};

/// Fresh bytes that come with an identity.
const ENTROPY: usize = 32;

/// Longest host name the kernel takes.
const MAX_HOSTNAME: usize = 64;

const RANDOM: &str = "/dev/random";

/// `RNDADDENTROPY`, which the kernel declares with a payload of two ints and takes with the bytes after them.
const ADD_ENTROPY: Opcode = opcode::write::<[i32; 2]>(b'R', 0x03);
/// `RNDRESEEDCRNG`.
const RESEED: Opcode = opcode::none(b'R', 0x07);

/// Why an identity could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not [`ENTROPY`] bytes in hexadecimal.
    #[error("The entropy is not {ENTROPY} bytes in hexadecimal")]
    Entropy,
    /// The random device does not open.
    #[error("Cannot open {RANDOM}")]
    Open(#[source] std::io::Error),
    /// The random device does not take the bytes, or does not reseed.
    #[error("Cannot reseed {RANDOM}")]
    Reseed(#[source] rustix::io::Errno),
    /// A time the kernel does not take.
    #[error("Cannot set the clock to {0} ns since 1970")]
    Clock(u64, #[source] rustix::io::Errno),
    /// A name the kernel does not take.
    #[error("Cannot set the host name")]
    Hostname(#[source] rustix::io::Errno),
}

/// `struct rand_pool_info` with room for the bytes.
#[repr(C)]
struct PoolInfo {
    entropy_bits: i32,
    size: i32,
    bytes: [u8; ENTROPY],
}

/// Takes the identity: randomness first, so that whatever comes after already differs from its twins.
pub fn apply(identity: &Identity) -> Result<(), IdentityError> {
    reseed(Path::new(RANDOM), decode(&identity.entropy_hex).ok_or(IdentityError::Entropy)?)?;
    let time = identity.time_unix_ns;
    let at = timespec(time).ok_or(IdentityError::Clock(time, rustix::io::Errno::INVAL))?;
    clock_settime(ClockId::Realtime, at).map_err(|e| IdentityError::Clock(time, e))?;
    let name = identity.hostname.as_bytes();
    sethostname(&name[..name.len().min(MAX_HOSTNAME)]).map_err(IdentityError::Hostname)
}

fn timespec(unix_ns: u64) -> Option<Timespec> {
    let (seconds, nanos) = (unix_ns / 1_000_000_000, unix_ns % 1_000_000_000);
    Some(Timespec { tv_sec: i64::try_from(seconds).ok()?, tv_nsec: i64::try_from(nanos).ok()? })
}

fn decode(hex: &str) -> Option<[u8; ENTROPY]> {
    if hex.len() != 2 * ENTROPY || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; ENTROPY];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn reseed(device: &Path, bytes: [u8; ENTROPY]) -> Result<(), IdentityError> {
    let device = File::options().write(true).open(device).map_err(IdentityError::Open)?;
    // 32 bytes, 256 bits: both fit.
    let size = i32::try_from(ENTROPY).unwrap_or(0);
    let info = PoolInfo { entropy_bits: size * 8, size, bytes };
    // SAFETY: RNDADDENTROPY reads two ints and then `size` bytes; `PoolInfo` has exactly these, in that layout,
    // and lives until the call returns.
    unsafe { ioctl(&device, Setter::<ADD_ENTROPY, PoolInfo>::new(info)) }.map_err(IdentityError::Reseed)?;
    // SAFETY: RNDRESEEDCRNG takes no argument.
    unsafe { ioctl(&device, NoArg::<RESEED>::new()) }.map_err(IdentityError::Reseed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kernel_takes_the_bytes() {
        // RNDADDENTROPY = _IOW('R', 3, int[2]), RNDRESEEDCRNG = _IO('R', 7).
        assert_eq!((ADD_ENTROPY, RESEED), (0x4008_5203, 0x5207));
        match reseed(Path::new(RANDOM), [7; ENTROPY]) {
            Ok(()) => {}
            // Needs CAP_SYS_ADMIN: as root this must not happen.
            Err(IdentityError::Reseed(rustix::io::Errno::PERM)) => {
                assert!(!rustix::process::getuid().is_root());
            }
            Err(error) => panic!("{error:?}"),
        }
        assert!(matches!(reseed(Path::new("/dev/null"), [0; ENTROPY]), Err(IdentityError::Reseed(_))));
    }

    #[test]
    fn only_hexadecimal_of_the_right_length_is_entropy() {
        assert_eq!(decode(&"0f".repeat(32)), Some([15; 32]));
        assert_eq!(decode(&"0f".repeat(31)), None);
        assert_eq!(decode(&"+f".repeat(32)), None);
    }

    proptest! {
        #[test]
        fn any_text_decodes_or_not(text in ".{0,70}") {
            prop_assert_eq!(decode(&text).is_some(), text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()));
        }
    }

    #[test]
    fn times() {
        let at = timespec(1_795_000_000_123_456_789).unwrap();
        assert_eq!((at.tv_sec, at.tv_nsec), (1_795_000_000, 123_456_789));
    }
}
