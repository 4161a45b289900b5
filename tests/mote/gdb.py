"""The little of GDB's remote protocol that it takes to bring a machine to a standstill, as only hardware could."""

import socket
import time
from pathlib import Path

TIMEOUT_S = 10
# Numbers of registers, as QEMU gives those of an x86-64.
RIP, EFLAGS = 0x10, 0x11
INTERRUPTS = 1 << 9
# `hlt`, and again should something wake it.
STANDSTILL = bytes([0xF4, 0xEB, 0xFD])


class Gdb:
    """A connection to QEMU's stub. While it lasts, the machine stands still."""

    def __init__(self, path: Path):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect(str(path))
        self._input = self._socket.makefile("rb")
        # QEMU gives single registers to those only who have asked which there are.
        assert self.ask("qXfer:features:read:target.xml:0,40").startswith(("l", "m"))

    def ask(self, command: str) -> str:
        """One command and its answer."""
        self._send(command)
        # That it stands still now, it says without being asked.
        while (answer := self._answer()).startswith("T"):
            pass
        return answer

    def _send(self, command: str) -> None:
        self._socket.sendall(b"$%s#%02x" % (command.encode(), sum(command.encode()) % 256))

    def _answer(self) -> str:
        while (byte := self._input.read(1)) != b"$":
            assert byte, "QEMU closed its debugger"
        text = b""
        while (byte := self._input.read(1)) != b"#":
            text += byte
        self._input.read(2)
        self._socket.sendall(b"+")
        return text.decode()

    def processors(self) -> list:
        """What they are called."""
        names, answer = [], self.ask("qfThreadInfo")
        while answer.startswith("m"):
            names += answer[1:].split(",")
            answer = self.ask("qsThreadInfo")
        return names

    def go_on(self, pause_s: float) -> None:
        """Lets it run for a moment."""
        self._send("c")
        time.sleep(pause_s)
        self._socket.sendall(b"\x03")
        answer = self._answer()
        assert answer.startswith(("T", "S")), answer

    def register(self, number: int) -> int:
        return int.from_bytes(bytes.fromhex(self.ask(f"p{number:x}")), "little")

    def set_register(self, number: int, value: int, size: int) -> None:
        assert self.ask(f"P{number:x}={value.to_bytes(size, 'little').hex()}") == "OK"

    def detach(self) -> None:
        """From here on the machine runs again."""
        self.ask("D")
        self._input.close()
        self._socket.close()


def stand_still(path: Path) -> None:
    """Every processor halts, and hears of no interrupt any more."""
    gdb = Gdb(path)
    names = gdb.processors()
    for _ in range(200):
        places = []
        for name in names:
            assert gdb.ask(f"Hg{name}") == "OK"
            places.append(gdb.register(RIP))
        # Programs may not halt: all are to be in the kernel.
        if all(place >> 63 for place in places):
            break
        gdb.go_on(0.02)
    else:
        raise AssertionError("It never was in the kernel with all its processors")
    for name, place in zip(names, places):
        assert gdb.ask(f"Hg{name}") == "OK"
        assert gdb.ask(f"M{place:x},{len(STANDSTILL):x}:{STANDSTILL.hex()}") == "OK"
        gdb.set_register(EFLAGS, gdb.register(EFLAGS) & ~INTERRUPTS, 4)
    gdb.detach()
