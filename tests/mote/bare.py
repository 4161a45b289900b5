"""The least machine to compare boots with: the same kernel, and an init that says when it began."""

import os
from pathlib import Path

from . import rust
from .appliance import Appliance

# Says how long ago the kernel started, on the clock that init's "ready after=" is read from.
INIT = """
unsafe extern "C" { fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32; }
fn main() {
    let mut time = [0; 2];
    // SAFETY: 7 is CLOCK_BOOTTIME, and two 64-bit numbers are what is written on this platform.
    unsafe { clock_gettime(7, &raw mut time) };
    println!("bare after={}.{:03}s", time[0], time[1] / 1_000_000);
    loop { std::thread::park(); }
}
"""


def initramfs(folder: Path) -> Path:
    """Compiles it and packs it."""
    program, archive = rust.compile(INIT, folder, "init"), folder / "bare.cpio"
    archive.write_bytes(_entry("init", 0o100755, program.read_bytes()) + _entry("TRAILER!!!", 0, b""))
    return archive


def _entry(name: str, mode: int, data: bytes) -> bytes:
    """A file of a `newc` archive."""
    number = name != "TRAILER!!!"
    fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + os.fsencode(name) + b"\0"
    return b"".join(part + bytes(-len(part) % 4) for part in (head, data))


class Bare(Appliance):
    """A machine with the appliance's kernel, devices and command line, and no appliance."""

    def __init__(self, archive: Path):
        super().__init__()
        self._archive = archive

    def _argv(self) -> list:
        argv = super()._argv()
        argv[argv.index("-initrd") + 1] = str(self._archive)
        return argv
