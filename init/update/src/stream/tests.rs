//! Files whole, harmed, and of anything at all.

use std::io::Cursor;

use super::*;
use crate::keys::SecretKey;
use crate::manifest::{MAX_MANIFEST, MIN_CHUNK};
use crate::version::Version;
use crate::write::{Release, write};
use proptest::prelude::*;

const CHUNK: usize = 4096;
const VERSION: Version = Version::new(1, 2, 0);
const POLICY: Policy = Policy { running: Version::new(1, 1, 0), oldest: Version::new(1, 0, 0) };

fn secret() -> SecretKey {
    SecretKey::from_seed(&[3; 32])
}

fn keys() -> Keys {
    Keys::new(vec![SecretKey::from_seed(&[2; 32]).public(), secret().public()]).unwrap()
}

fn release() -> Release {
    Release {
        version: VERSION,
        built: 1_790_000_000,
        replaces: Version::new(1, 0, 0),
        chunk_size: MIN_CHUNK,
        verity_root: Some(Digest::of(b"tree")),
        gap: None,
    }
}

fn file_of(payload: &[u8], release: &Release, key: &SecretKey) -> Vec<u8> {
    let mut file = Vec::new();
    write(&mut Cursor::new(payload), release, key, &mut file).unwrap();
    file
}

fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect()
}

/// Feeds a file in pieces of these sizes, again and again. What was given out, and how it ended.
fn read(file: &[u8], pieces: &[usize], policy: Policy) -> (Vec<u8>, Result<Manifest, StreamError>) {
    let mut verifier = Verifier::new(keys(), policy);
    let mut given = Vec::new();
    let mut rest = file;
    for size in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (mut piece, left) = rest.split_at((*size).clamp(1, rest.len()));
        rest = left;
        loop {
            match verifier.feed(&mut piece) {
                Ok(Some(Item::Manifest(manifest))) => {
                    assert!(given.is_empty());
                    assert_eq!(manifest.version, VERSION);
                }
                Ok(Some(Item::Chunk { offset, bytes })) => {
                    assert_eq!(offset, u64::try_from(given.len()).unwrap());
                    given.extend_from_slice(bytes);
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(matches!(verifier.feed(&mut piece), Err(StreamError::Broken)));
                    assert!(matches!(verifier.finish(), Err(StreamError::Broken)));
                    return (given, Err(error));
                }
            }
        }
        assert!(piece.is_empty());
    }
    (given, verifier.finish())
}

fn whole(file: &[u8]) -> (Vec<u8>, Result<Manifest, StreamError>) {
    read(file, &[usize::MAX], POLICY)
}

#[test]
fn a_file_comes_through() {
    for size in [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 5 * CHUNK + 17] {
        let payload = payload(size);
        for pieces in [&[usize::MAX][..], &[1], &[CHUNK], &[7, 5000]] {
            let (given, end) = read(&file_of(&payload, &release(), &secret()), pieces, POLICY);
            let manifest = end.unwrap();
            assert!(given == payload, "{size} bytes");
            assert_eq!(manifest.chunk_count(), u64::try_from(size.div_ceil(CHUNK)).unwrap());
            assert_eq!(manifest.verity_root, Some(Digest::of(b"tree")));
        }
    }
}

#[test]
fn what_is_signed_by_others_or_nobody_is_refused_before_it_is_read() {
    let payload = payload(CHUNK);
    let other = SecretKey::from_seed(&[9; 32]);
    let (given, end) = whole(&file_of(&payload, &release(), &other));
    assert!(matches!(end, Err(StreamError::UnknownKey(id)) if id == other.public().id()));
    assert!(given.is_empty());

    // It names a key that is trusted.
    let mut file = file_of(&payload, &release(), &other);
    file[16..24].copy_from_slice(&secret().public().id().0);
    assert!(matches!(whole(&file).1, Err(StreamError::Signature(id)) if id == secret().public().id()));

    file[24..88].fill(0);
    assert!(matches!(whole(&file).1, Err(StreamError::Header(HeaderError::Unsigned))));
}

#[test]
fn another_format_is_refused() {
    let mut file = file_of(&payload(CHUNK), &release(), &secret());
    file[8] = 2;
    assert!(matches!(whole(&file).1, Err(StreamError::Header(HeaderError::Format(2)))));
}

#[test]
fn a_signed_manifest_with_wrong_limits_is_refused() {
    let wrong = Manifest { size: 0, ..crate::manifest::tests::manifest() };
    let file = Header::sign(&serde_json::to_vec(&wrong).unwrap(), &secret()).unwrap();
    assert!(matches!(whole(&file).1, Err(StreamError::Manifest(ManifestError::Size { .. }))));
    let file = Header::sign(b"{}", &secret()).unwrap();
    assert!(matches!(whole(&file).1, Err(StreamError::Manifest(ManifestError::Json(_)))));
}

#[test]
fn what_this_machine_may_not_have_is_refused() {
    let file = file_of(&payload(CHUNK), &release(), &secret());
    let newer = Version::new(2, 0, 0);
    for (policy, error) in [
        (Policy { oldest: newer, ..POLICY }, PolicyError::TooOld { version: VERSION, oldest: newer }),
        (
            Policy { running: Version::ZERO, ..POLICY },
            PolicyError::CannotReplace { replaces: Version::new(1, 0, 0), running: Version::ZERO },
        ),
    ] {
        let (given, end) = read(&file, &[100], policy);
        assert!(matches!(end, Err(StreamError::Refused(refused)) if refused == error));
        assert!(given.is_empty());
    }
}

#[test]
fn chunks_cannot_change_places() {
    let payload = payload(3 * CHUNK);
    let mut file = file_of(&payload, &release(), &secret());
    let first = file.len() - payload.len();
    let (a, b) = file[first + CHUNK..].split_at_mut(CHUNK);
    a.swap_with_slice(b);
    let (given, end) = whole(&file);
    assert!(matches!(end, Err(StreamError::Chunk { offset }) if offset == u64::from(MIN_CHUNK)));
    assert_eq!(given.len(), CHUNK);
}

#[test]
fn memory_is_bounded() {
    let file = file_of(&payload(40 * CHUNK), &release(), &secret());
    let mut verifier = Verifier::new(keys(), POLICY);
    for piece in file.chunks(1000) {
        let mut piece = piece;
        loop {
            let more = verifier.feed(&mut piece).unwrap().is_some();
            assert!(verifier.buffer.capacity() <= MAX_MANIFEST.max(CHUNK));
            if !more {
                break;
            }
        }
    }
    assert!(verifier.finish().is_ok());
    // Before the signature: a manifest's worth, whatever the header says and however much comes.
    let mut liar = file[..HEADER_BYTES].to_vec();
    liar[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(whole(&liar).1, Err(StreamError::Header(HeaderError::ManifestSize(u32::MAX)))));
}

fn any_pieces() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1..10_usize, 1..10_000_usize], 1..8)
}

/// What may happen to a file on its way.
#[derive(Debug, Clone)]
enum Harm {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Append(Vec<u8>),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Copy(prop::sample::Index, prop::sample::Index, usize),
}

fn any_harm() -> impl Strategy<Value = Harm> {
    let at = any::<prop::sample::Index>;
    let bytes = || prop::collection::vec(any::<u8>(), 1..50);
    prop_oneof![
        (at(), 1..=255_u8).prop_map(|(at, with)| Harm::Flip(at, with)),
        at().prop_map(Harm::Cut),
        bytes().prop_map(Harm::Append),
        (at(), bytes()).prop_map(|(at, bytes)| Harm::Insert(at, bytes)),
        (at(), 1..5000_usize).prop_map(|(at, size)| Harm::Remove(at, size)),
        (at(), at(), 1..5000_usize).prop_map(|(from, to, size)| Harm::Copy(from, to, size)),
    ]
}

/// Of the first 600 bytes as often as of all the rest: header, manifest and table are small.
fn place(at: prop::sample::Index, length: usize) -> usize {
    let at = at.index(2 * length.max(1));
    if at < length { at } else { (at - length) % length.clamp(1, 600) }
}

fn harm(file: &mut Vec<u8>, harm: &Harm) {
    if file.is_empty() {
        return;
    }
    match harm {
        Harm::Flip(at, with) => {
            let at = place(*at, file.len());
            file[at] ^= with;
        }
        Harm::Cut(at) => file.truncate(place(*at, file.len())),
        Harm::Append(bytes) => file.extend_from_slice(bytes),
        Harm::Insert(at, bytes) => {
            let at = place(*at, file.len());
            file.splice(at..at, bytes.iter().copied());
        }
        Harm::Remove(at, size) => {
            let at = place(*at, file.len());
            file.drain(at..(at + size).min(file.len()));
        }
        Harm::Copy(from, to, size) => {
            let (from, to) = (place(*from, file.len()), place(*to, file.len()));
            let size = (*size).min(file.len() - from.max(to));
            file.copy_within(from..from + size, to);
        }
    }
}

proptest! {
    #[test]
    fn any_pieces_give_the_payload(size in 1..30_000_usize, pieces in any_pieces()) {
        let payload = payload(size);
        let (given, end) = read(&file_of(&payload, &release(), &secret()), &pieces, POLICY);
        prop_assert!(end.is_ok() && given == payload);
    }

    /// Whatever happens to a file: what is given out is the beginning of the payload, and it ends well only if
    /// it is unharmed. In pieces as in one.
    #[test]
    fn any_harm_is_found(
        size in 1..20_000_usize,
        harms in prop::collection::vec(any_harm(), 1..4),
        pieces in any_pieces(),
    ) {
        let payload = payload(size);
        let file = file_of(&payload, &release(), &secret());
        let mut harmed = file.clone();
        harms.iter().for_each(|one| harm(&mut harmed, one));
        let (given, end) = read(&harmed, &pieces, POLICY);
        prop_assert!(payload.starts_with(&given));
        prop_assert_eq!(end.is_ok(), harmed == file);
        let (at_once, end_at_once) = whole(&harmed);
        prop_assert_eq!(given, at_once);
        let said = |end: Result<Manifest, StreamError>| end.map_err(|error| format!("{error:?}"));
        prop_assert_eq!(said(end), said(end_at_once));
    }

    #[test]
    fn any_bytes_are_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..500),
        genuine in 0..300_usize,
        pieces in any_pieces(),
    ) {
        let mut file = file_of(&payload(CHUNK), &release(), &secret());
        file.truncate(genuine);
        file.extend_from_slice(&bytes);
        let (given, end) = read(&file, &pieces, POLICY);
        prop_assert!(given.is_empty() && end.is_err());
    }

    /// Signed, but by a key that lost its mind: nothing but limits and digests is left, and they hold.
    #[test]
    fn any_signed_manifest_is_read_or_refused(
        size in prop_oneof![any::<u64>(), 0..9000_u64],
        chunk_power in 0..32_u32,
        rest in prop::collection::vec(any::<u8>(), 0..500),
    ) {
        let manifest = Manifest {
            version: VERSION,
            size,
            chunk_size: 1 << chunk_power,
            ..crate::manifest::tests::manifest()
        };
        let mut file = Header::sign(&serde_json::to_vec(&manifest).unwrap(), &secret()).unwrap();
        file.extend_from_slice(&rest);
        let (given, end) = whole(&file);
        prop_assert!(given.is_empty() && end.is_err());
    }
}
