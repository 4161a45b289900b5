"""Update files: made and signed by the image tool, sent to a machine."""

import os
import socket
import subprocess
from pathlib import Path

from . import http, rust
from .appliance import ROOT, image_tool


def _tool(*words, root: Path = ROOT) -> str:
    command = [*image_tool(), "--root", str(root), *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Signer:
    """A key, and what is signed with it."""

    def __init__(self, folder: Path, name: str = "key"):
        self.folder = folder
        self.key = folder / name
        self.public = _tool("update-key", "--out", self.key)

    def config(self) -> Path:
        """A mote.toml of machines that trust this key."""
        path = self.folder / f"{self.key.name}.toml"
        path.write_text(f'[update]\nkeys = ["{self.public}"]\n')
        return path

    def update(self, version: str, *append: str, root: Path = ROOT) -> Path:
        """An update to a version, with these words at the end of its kernel command line."""
        out = self.folder / f"{version}-{self.key.name}.update"
        words = ["update", "--key", self.key, "--version", version, "--emulated", "2", "--out", out]
        for word in append:
            words += ["--append", word]
        _tool(*words, root=root)
        return out


def other_system(folder: Path, hostd: str) -> Path:
    """A checkout with an image whose hostd is this Rust program; gives its folder."""
    binaries, root = folder / "binaries", folder / "root"
    binaries.mkdir()
    root.mkdir()
    rust.compile(hostd, binaries, "hostd")
    ours = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / rust.TARGET / "release"
    for name in ("mote-init", "mote-agent"):
        (binaries / name).symlink_to(ours / name)
    for name in ("Cargo.toml", "config", "image"):
        (root / name).symlink_to(ROOT / name)
    _tool("build", "--binaries", binaries, root=root)
    return root


def send(machine, file: Path, query: str = "", timeout: float = 300) -> http.Reply:
    """Sends an update file as a whole."""
    with open(file, "rb") as body:
        headers = {"Content-Length": str(file.stat().st_size)}
        return http.request(machine.port, "POST", f"/system/update{query}", body, headers, timeout=timeout)


def send_part(machine, file: Path, size: int) -> socket.socket:
    """Begins to send one, and keeps the connection open."""
    connection = socket.create_connection(("127.0.0.1", machine.port), timeout=60)
    total = file.stat().st_size
    head = f"POST /system/update HTTP/1.1\r\nHost: box\r\nContent-Length: {total}\r\n\r\n"
    connection.sendall(head.encode() + file.read_bytes()[:size])
    return connection


def state(machine) -> dict | None:
    """What the machine says of its slots; nothing while it is not up."""
    try:
        reply = machine.get("/system/update", timeout=10)
    except Exception:  # noqa: BLE001 - half an answer of a machine that goes down or comes up
        return None
    return reply.json if reply.status == 200 else None
