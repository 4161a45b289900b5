//! Keys: public ones a system trusts, and the secret one that signs.
//!
//! Both are kept in files of one line, 64 hexadecimal digits. A secret key is overwritten in memory when it is
//! done with, and nothing that is printed shows it.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroizing;

use crate::digest::Digest;

/// Most keys a system trusts: the present one, the next one, and a few to spare.
pub const MAX_KEYS: usize = 8;

/// Bytes of a key, secret or public.
pub const KEY_BYTES: usize = 32;

/// Bytes of a key's name.
pub const KEY_ID_BYTES: usize = 8;

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// A key file is no longer than this: the digits, and a little white space.
const MAX_FILE: usize = 128;

/// The name of a key: the beginning of the public key's SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; KEY_ID_BYTES]);

/// A key to verify with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    id: KeyId,
    key: VerifyingKey,
}

/// The keys a system trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(Vec<PublicKey>);

/// A key to sign with.
pub struct SecretKey(SigningKey);

/// Not a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// Other text.
    #[error("Not a public key of 64 hexadecimal digits")]
    Text,
    /// No point of the curve, or one whose signatures anybody can make.
    #[error("Not a public key that can be trusted")]
    Weak,
}

/// Keys nobody can work with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// None, or too many.
    #[error("{0} trusted keys instead of 1 to {MAX_KEYS}")]
    Count(usize),
    /// One of them twice, or two of one name.
    #[error("Key {0} is there twice")]
    Twice(KeyId),
}

/// Why a secret key was not read, made or kept. It says nothing of the file's content.
#[derive(Debug, thiserror::Error)]
pub enum SecretKeyError {
    /// The file could not be read.
    #[error("Cannot read the key in {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has something else in it.
    #[error("No secret key of 64 hexadecimal digits in {}", .0.display())]
    Text(PathBuf),
    /// The kernel gave no random bytes.
    #[error("No randomness for a key")]
    Random(#[source] io::Error),
    /// The file is there, or could not be written.
    #[error("Cannot write a key to {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl PublicKey {
    fn new(key: VerifyingKey) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = Digest::of(key.as_bytes()).0;
        Self { id: KeyId([a, b, c, d, e, f, g, h]), key }
    }

    /// Its name.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Whether this key signed the message.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        self.key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        let mut bytes = [0; KEY_BYTES];
        hex::decode_to_slice(text.trim_ascii(), &mut bytes).map_err(|_| PublicKeyError::Text)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| PublicKeyError::Weak)?;
        if key.is_weak() { Err(PublicKeyError::Weak) } else { Ok(Self::new(key)) }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.key.as_bytes()))
    }
}

impl Keys {
    /// Of the keys a system is built with.
    pub fn new(keys: Vec<PublicKey>) -> Result<Self, KeysError> {
        if keys.is_empty() || keys.len() > MAX_KEYS {
            return Err(KeysError::Count(keys.len()));
        }
        for (index, key) in keys.iter().enumerate() {
            if keys.iter().skip(index + 1).any(|other| other.id == key.id) {
                return Err(KeysError::Twice(key.id));
            }
        }
        Ok(Self(keys))
    }

    pub(crate) fn find(&self, id: KeyId) -> Option<&PublicKey> {
        self.0.iter().find(|key| key.id == id)
    }
}

impl SecretKey {
    /// A new key, of the kernel's randomness.
    pub fn generate() -> Result<Self, SecretKeyError> {
        let mut seed = Zeroizing::new([0; KEY_BYTES]);
        let read = getrandom(seed.as_mut_slice(), GetRandomFlags::empty())
            .map_err(|errno| SecretKeyError::Random(errno.into()))?;
        if read != KEY_BYTES {
            return Err(SecretKeyError::Random(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Self::from_seed(&seed))
    }

    /// Of 32 bytes that nobody else knows.
    pub fn from_seed(seed: &[u8; KEY_BYTES]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Reads a key's file.
    pub fn load(path: &Path) -> Result<Self, SecretKeyError> {
        let read = |source| SecretKeyError::Read { path: path.to_owned(), source };
        // A buffer that grows would leave copies behind.
        let mut text = Zeroizing::new([0; MAX_FILE]);
        let mut file = fs::File::open(path).map_err(read)?;
        let mut length = 0;
        while let Some(room) = text.get_mut(length..).filter(|room| !room.is_empty()) {
            match file.read(room).map_err(read)? {
                0 => break,
                more => length += more,
            }
        }
        let text = text.get(..length).unwrap_or_default();
        let mut seed = Zeroizing::new([0; KEY_BYTES]);
        hex::decode_to_slice(text.trim_ascii(), seed.as_mut_slice())
            .map_err(|_| SecretKeyError::Text(path.to_owned()))?;
        Ok(Self::from_seed(&seed))
    }

    /// Writes the key to a new file that only its owner can read. One that is there is not overwritten.
    pub fn save(&self, path: &Path) -> Result<(), SecretKeyError> {
        let write = |source| SecretKeyError::Write { path: path.to_owned(), source };
        let seed = Zeroizing::new(self.0.to_bytes());
        let text = Zeroizing::new(hex::encode(seed.as_slice()));
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(write)?;
        file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(write)?;
        file.sync_all().map_err(write)
    }

    /// The key to verify with.
    pub fn public(&self) -> PublicKey {
        PublicKey::new(self.0.verifying_key())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({}, redacted)", self.public().id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_is_kept_for_its_owner_alone_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = SecretKey::generate().unwrap();
        key.save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = SecretKey::load(&path).unwrap();
        assert_eq!(read.public(), key.public());
        assert!(key.public().verify(b"message", &read.sign(b"message")));
        assert!(!key.public().verify(b"massage", &read.sign(b"message")));
        assert!(matches!(SecretKey::generate().unwrap().save(&path), Err(SecretKeyError::Write { .. })));
        assert_eq!(SecretKey::load(&path).unwrap().public(), key.public());
        assert_ne!(SecretKey::generate().unwrap().public(), key.public());
    }

    #[test]
    fn a_secret_is_never_printed() {
        let seed = [0xA7; KEY_BYTES];
        let key = SecretKey::from_seed(&seed);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        // One digit too many: an error whose text must not tell the others.
        fs::write(&path, format!("{}a", hex::encode(seed))).unwrap();
        let error = SecretKey::load(&path).unwrap_err();
        for said in [format!("{key:?}"), format!("{key:#?}"), format!("{error}"), format!("{error:?}")] {
            assert!(!said.to_lowercase().contains("a7a7"), "{said}");
            assert!(!said.contains("167, 167"), "{said}");
        }
        assert!(format!("{key:?}").contains("redacted"));
    }

    #[test]
    fn other_files_are_not_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(matches!(SecretKey::load(&path), Err(SecretKeyError::Read { .. })));
        for text in ["", "abc", &"0".repeat(63), &"0".repeat(100_000), &"x".repeat(64)] {
            fs::write(&path, text).unwrap();
            assert!(matches!(SecretKey::load(&path), Err(SecretKeyError::Text(_))), "{} bytes", text.len());
        }
    }

    #[test]
    fn trusted_keys_are_few_and_different() {
        let key = |byte| SecretKey::from_seed(&[byte; KEY_BYTES]).public();
        assert_eq!(Keys::new(Vec::new()), Err(KeysError::Count(0)));
        assert_eq!(Keys::new((0..9).map(key).collect()), Err(KeysError::Count(9)));
        assert_eq!(Keys::new(vec![key(1), key(2), key(1)]), Err(KeysError::Twice(key(1).id())));
        let keys = Keys::new((0..8).map(key).collect()).unwrap();
        assert_eq!(keys.find(key(7).id()), Some(&key(7)));
        assert_eq!(keys.find(key(8).id()), None);
    }

    #[test]
    fn keys_that_sign_everything_are_refused() {
        // The neutral element, and a point of small order.
        for text in [format!("01{}", "0".repeat(62)), "0".repeat(64)] {
            assert_eq!(text.parse::<PublicKey>(), Err(PublicKeyError::Weak));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_key_or_refused(text in "\\PC{0,70}|[0-9a-f]{64}") {
            if let Ok(key) = text.parse::<PublicKey>() {
                prop_assert_eq!(key.to_string().parse(), Ok(key));
            }
        }
    }
}
