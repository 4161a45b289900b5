//! A/B updates: two system slots, which of them is booted, and the signed file a new one comes in. Pure logic;
//! disks, sockets and the build are others' matter.
//!
//! # The boot loader's block
//!
//! [`grubenv`] reads and writes the block GRUB keeps its variables in; [`slots`] keeps the state of both slots
//! there: which one is good, what is on trial and for how many boots, what failed.
//!
//! # The update file
//!
//! ```text
//!  byte       size   what                                                               signed
//! ┌──────────┬──────┬──────────────────────────────────────────────────────────────────┬───────┐
//! │ 0        │ 8    │ "MOTE-UP\n"                                                      │   x   │
//! │ 8        │ 4    │ format, 1; numbers are little-endian                             │   x   │
//! │ 12       │ 4    │ M, bytes of the manifest, at most 4096                           │   x   │
//! │ 16       │ 8    │ key id, the first bytes of the public key's SHA-256              │   x   │
//! │ 24       │ 64   │ Ed25519 signature, of "Mote update file\0" and all that is signed│       │
//! │ 88       │ M    │ manifest, JSON: version, built, replaces, size, chunk_size,      │   x   │
//! │          │      │ chunks (the table's SHA-256), verity_root, gap (may be missing)  │       │
//! │ 88+M     │ 32 N │ table, the SHA-256 of each chunk                                 │       │
//! │ 88+M+32 N│ size │ payload, N chunks of chunk_size bytes, the last of what is left  │       │
//! └──────────┴──────┴──────────────────────────────────────────────────────────────────┴───────┘
//! ```
//!
//! Nothing but the header's fixed fields is read before the signature is checked, and no byte of the payload is
//! given out before its chunk was checked: signature → manifest → table → chunk. [`stream::Verifier`] does that
//! with bytes as they come, in bounded memory; [`write::write`] makes the file. Anything behind the payload is
//! an error, as is anything missing.
//!
//! The payload is what a slot has in it. A slot is full at both ends and empty in between: that part is the `gap`, and
//! is not sent ([`manifest::Manifest::places`] says where bytes go).
//!
//! # An update
//!
//! ```text
//! Verifier: Item::Manifest ──> slots::begin(version) ─> block on disk ─┐
//!           Item::Chunk ─────> the slot that Install names <───────────┘
//!           finish() ────────> fsync ─> slots::finish(install) ─> block on disk ─> reboot
//! next boot: GRUB ─> slots::settle ─> block ─> health check ─> slots::mark_good ─> block
//!                                                              or slots::give_up ─> block ─> reboot
//! ```
//!
//! A change of [`slots`] counts once the block is on the disk: written in place, in one go, and synced.

pub mod digest;
pub mod grubenv;
pub mod keys;
pub mod manifest;
pub mod slots;
pub mod stream;
mod text;
pub mod verity;
pub mod version;
pub mod write;
