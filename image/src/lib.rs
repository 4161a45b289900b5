//! Assembles the bootable image and runs it in QEMU.
//!
//! The parts, in the order in which an image is made: [`kernel`] builds both kernels from Debian's
//! source package, [`runtime`] makes the root file system of the microVMs, [`assemble`] puts those, our
//! own binaries and [`tools`] into the system disk and the initramfs, [`qemu`] boots the result. [`disk_image`]
//! makes of it the one disk that boots by itself, [`update`] the signed file that machines replace theirs with.
//! Nothing here needs root, loop devices or mounts. What is expensive is made once and kept by the hash
//! of what it is made from ([`cache`]). [`sbom`] tells what is in it, under which licences.

pub mod assemble;
pub mod cache;
pub mod debian;
pub mod disk;
pub mod disk_image;
pub mod elf;
pub mod erofs;
pub mod files;
pub mod initramfs;
pub mod kernel;
pub mod prebuilt;
pub mod process;
pub mod progress;
pub mod project;
pub mod qemu;
pub mod runtime;
pub mod sbom;
pub mod tools;
pub mod update;
