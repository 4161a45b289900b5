//! Assembles the bootable image and runs it in QEMU.

fn main() {}
