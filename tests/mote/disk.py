"""The disk image that boots by itself, as a file: where things are on it, what its boot loader keeps, how to damage it."""

import os
import re
import struct
import subprocess
import tomllib
import zlib
from pathlib import Path

from .appliance import ROOT, image_tool

MIB = 1 << 20
# Where `image disk` puts the boot loader's block, in the EFI system partition; the crate mote-layout says so.
ENVIRONMENT = 2028 * 512
BLOCK = 1024
# What a test puts an image on: data disks grow to 3 GiB.
DISK_BYTES = 4 << 30
# Through firmware and boot loader, emulated, on a machine that does other things as well.
READY_LIMIT_S = 240
# On a machine with a BIOS; UEFI shows everything twice, for GRUB writes to the screen as well, which is the serial line.
_BOOTED = re.compile(r"Mote: slot ([ab])\b(?! cannot)")


def make(out: Path, config: Path | None = None, *, dist: Path | None = None, grub: Path | None = None) -> Path:
    """Makes the image, for a machine that QEMU emulates; with this mote.toml on its configuration partition, with
    another folder of parts, another boot loader."""
    command = [*image_tool(), "disk", "--out", str(out), "--emulated", "2"]
    for option, value in {"--config": config, "--dist": dist, "--grub": grub}.items():
        command += [option, str(value)] if value else []
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return out


def make_small_data(out: Path, size: int) -> None:
    """A blank data disk with a partition smaller than anybody would make."""
    command = [*image_tool(), "data", "--out", str(out), "--size", "64M"]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    with open(out, "r+b") as file:
        end = os.fstat(file.fileno()).st_size
        # Both tables: the header's sums are of the header, and of the entries.
        for at in (512, end - 512):
            file.seek(at)
            header = bytearray(file.read(92))
            entries, count, each = struct.unpack_from("<QII", header, 72)
            file.seek(entries * 512)
            table = bytearray(file.read(count * each))
            first, = struct.unpack_from("<Q", table, 32)
            struct.pack_into("<Q", table, 40, first + size // 512 - 1)
            struct.pack_into("<I", header, 88, zlib.crc32(table))
            struct.pack_into("<I", header, 16, 0)
            struct.pack_into("<I", header, 16, zlib.crc32(header))
            file.seek(entries * 512)
            file.write(table)
            file.seek(at)
            file.write(header)


def booted(console: str) -> str:
    """The slots that the boot loader tried, in order."""
    return "".join(_BOOTED.findall(console))


def clone(source: Path, to: Path) -> None:
    """A sparse copy."""
    subprocess.run(["cp", "--sparse=always", "--", str(source), str(to)], check=True, timeout=300)


class Disk:
    """A copy of an image on a larger disk."""

    def __init__(self, image: Path, path: Path, size: int = DISK_BYTES):
        clone(image, path)
        os.truncate(path, size)
        self.path = path
        self.parts, at = {}, MIB
        table = tomllib.loads((ROOT / "config/layout.toml").read_text())
        self.boot_area = table["boot_area_mib"] * MIB
        for part in table["partition"]:
            size = part["size_mib"] * MIB
            self.parts[part["role"]] = (at, size)
            at += size

    def read(self, at: int, size: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(at)
            return file.read(size)

    def write(self, at: int, what: bytes) -> None:
        with open(self.path, "r+b") as file:
            file.seek(at)
            file.write(what)

    def flip(self, at: int) -> None:
        """Another bit than was there."""
        self.write(at, bytes([self.read(at, 1)[0] ^ 0x10]))

    def end_of(self, label: str) -> int:
        """Where the partition with this name ends, by the first table."""
        name = label.encode("utf-16-le")
        for number in range(128):
            entry = self.read(2 * 512 + number * 128, 128)
            if entry[56:].rstrip(b"\0") in (name, name.rstrip(b"\0")):
                return (int.from_bytes(entry[40:48], "little") + 1) * 512
        raise AssertionError(f"No partition is named {label}")

    # Slots

    def copy_slot(self) -> None:
        """The second slot becomes what the first one is."""
        start, size = self.parts["system-a"]
        # Blank in between: what is there is at both ends.
        for at in range(0, size, 16 * MIB):
            piece = self.read(start + at, 16 * MIB)
            if piece.strip(b"\0"):
                self.write(self.parts["system-b"][0] + at, piece)

    def in_slot(self, slot: str, what: bytes) -> int:
        """Where these bytes are in a slot's boot area."""
        start, size = self.parts[f"system-{slot}"]
        start += size - self.boot_area
        found = self.read(start, self.boot_area).find(what)
        assert found >= 0, what
        return start + found

    # What the boot loader keeps

    def variables(self) -> dict:
        block = self.read(self.parts["esp"][0] + ENVIRONMENT, BLOCK)
        lines = block.rstrip(b"#").decode().splitlines()
        assert lines[0] == "# GRUB Environment Block", lines
        return dict(line.split("=", 1) for line in lines[1:])

    def set(self, **variables) -> None:
        lines = [f"{name}={value}\n" for name, value in {**self.variables(), **variables}.items()]
        block = "".join(["# GRUB Environment Block\n", *lines]).encode()
        assert len(block) < BLOCK, block
        self.write(self.parts["esp"][0] + ENVIRONMENT, block.ljust(BLOCK, b"#"))
