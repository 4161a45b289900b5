"""What a machine wrote to its disk, in order, and what is on the disk if the power goes at one moment of it.

QEMU's `blklogwrites` keeps the log, in the format of the kernel's dm-log-writes: a superblock, then entries of one sector
each, followed by what was written. A flush says that all before it is durable; of what came after the last one, a disk
without power may have any part, down to single sectors.
"""

import os
import random
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


@dataclass(frozen=True)
class Entry:
    """One request. `data` is where its bytes are in the log; a flush has none."""

    at: int
    size: int
    flags: int
    data: int

    @property
    def is_barrier(self) -> bool:
        return bool(self.flags & (FLUSH | FUA))

    @property
    def is_write(self) -> bool:
        return self.size > 0 and not self.flags & (DISCARD | MARK)

    def touches(self, at: int, size: int) -> bool:
        return self.is_write and self.at < at + size and at < self.at + self.size


def drive(image: Path, log: Path) -> str:
    """The value of QEMU's `-drive` for a disk named `mote` whose writes are logged."""
    return (
        f"if=none,id=mote,driver=blklogwrites,cache.writeback=on,discard=unmap,log-sector-size={SECTOR},"
        f"file.driver=raw,file.file.driver=file,file.file.filename={image},file.discard=unmap,"
        f"log.driver=file,log.filename={log}"
    )


def logged(argv: list, image: Path, log: Path) -> list:
    """QEMU's arguments, with a log beside the disk."""
    log.touch()
    at = next(i for i, word in enumerate(argv) if word.startswith("if=none,id=mote,"))
    return [*argv[:at], drive(image, log), *argv[at + 1 :]]


class Log:
    """A log, which may end anywhere: the machine's power was cut."""

    def __init__(self, path: Path):
        self.path = path
        self.entries = list(self._read())

    def _read(self):
        with open(self.path, "rb") as file:
            end = os.fstat(file.fileno()).st_size
            head = file.read(SECTOR)
            number = [int.from_bytes(head[i : i + 8], "little") for i in (0, 8)]
            assert number == [MAGIC, 1], f"{self.path} is no log of writes: {number}"
            assert int.from_bytes(head[24:28], "little") == SECTOR
            # The count in the superblock is written now and then only: entries end where there are no more.
            at = SECTOR
            while at + SECTOR <= end:
                file.seek(at)
                sector, sectors, flags, _ = (int.from_bytes(file.read(8), "little") for _ in range(4))
                if sectors == 0 and not flags:
                    return
                at += SECTOR
                size = sectors * SECTOR
                yield Entry(sector * SECTOR, size, flags, at)
                at += 0 if flags & DISCARD else size

    def replay(self, disk: Path, entries, chance: random.Random | None = None) -> None:
        """Does to a disk what these entries say; with `chance`, any of their sectors may be missing."""
        with open(self.path, "rb") as log, open(disk, "r+b") as out:
            for entry in entries:
                if not entry.is_write:
                    continue
                log.seek(entry.data)
                data = log.read(entry.size)
                if chance is None:
                    out.seek(entry.at)
                    out.write(data)
                    continue
                kept = chance.choice([0.0, 0.5, 1.0])
                for offset in range(0, entry.size, SECTOR):
                    if chance.random() < kept:
                        out.seek(entry.at + offset)
                        out.write(data[offset : offset + SECTOR])

    def durable(self, moment: int) -> int:
        """How many entries were durable for certain before the entry with this number began."""
        return next((i + 1 for i in range(moment - 1, -1, -1) if self.entries[i].is_barrier), 0)
