"""One virtual machine that runs the appliance: its QEMU process, disks, console, power button and power plug."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from . import blocklog, gdb, http
from .qmp import Qmp

ROOT = Path(__file__).resolve().parents[2]
# Under emulation, on a busy machine; measured boots take a small part of this.
READY_LIMIT_S = 120
POLL_S = 0.2
STOP_LIMIT_S = 40


class BootError(AssertionError):
    """The appliance did not come up; the text ends with its console."""


def image_tool() -> list:
    """The command that knows how the image is run: $MOTE_IMAGE_TOOL, else cargo's build of it."""
    given = os.environ.get("MOTE_IMAGE_TOOL")
    if given:
        return [given]
    return ["cargo", "run", "--quiet", "--package", "image", "--"]


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Appliance:
    """Starts, observes and ends one machine. Its disks outlive power cuts; `close` removes everything.

    options: settings for the kernel command line, `{"sandbox.idle_timeout_s": 5}`.
    verbose: everything init notes stands on the console, not only what a person should see.
    disk: an image that boots by itself, with this firmware, on this bus; the options are those it was made with.
    hardware: what else is other than usual, see `hardware.py`; may be changed while the machine is off.
    log: where to note everything that is written to that disk.
    """

    def __init__(self, *, port: int | None = None, memory_mb: int | None = None, data_mb: int | None = None,
                 options: dict | None = None, verbose: bool = False, no_data: bool = False,
                 disk: Path | None = None, firmware: str = "bios", bus: str = "virtio", log: Path | None = None,
                 hardware=None):
        self.folder = Path(tempfile.mkdtemp(prefix="mote-"))
        self.port = port or free_port()
        self.data = self.folder / "data.img"
        self._qmp = self.folder / "qmp.sock"
        self._said = self.folder / "qemu.log"
        self._memory_mb = memory_mb
        self._data_mb = data_mb
        self._options = dict(options or {})
        self._verbose = verbose
        self._no_data = no_data
        self._disk = ["--disk", str(disk), "--firmware", firmware, "--bus", bus] if disk else []
        self.hardware = hardware
        self._log = (disk, log) if log else None
        self._process: subprocess.Popen | None = None
        self._boots = 0

    # Life

    def start(self, *, options: dict | None = None) -> None:
        """Switches the machine on. Must be called from the main thread: the process ends with its parent thread."""
        assert self._process is None, "It runs already"
        if options is not None:
            self._options = dict(options)
        self._boots += 1
        argv = self._argv()
        self._qmp.unlink(missing_ok=True)
        with open(self._said, "ab") as said:
            # The kernel ends QEMU should this process be killed: no machine outlives its test.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *argv],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=self.folder, start_new_session=True,
            )
        self._started = time.monotonic()

    def _argv(self) -> list:
        wishes = [
            "qemu-args", "--json", "--port", str(self.port), "--serial", str(self.serial), "--qmp", str(self._qmp),
        ]
        if self._disk:
            wishes += self._disk
        else:
            wishes += ["--no-data"] if self._no_data else ["--data", str(self.data)]
        if self._memory_mb:
            wishes += ["--memory-mib", str(self._memory_mb)]
        if self._data_mb:
            wishes += ["--data-mib", str(self._data_mb)]
        for key, value in self._options.items():
            wishes += ["--append", f'mote.{key}="{value}"']
        done = subprocess.run(
            [*image_tool(), *wishes], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
        )
        if done.returncode != 0:
            raise BootError(f"No command line for QEMU: {done.stderr.strip()}")
        argv = json.loads(done.stdout)
        if self._log:
            argv = blocklog.logged(argv, *self._log)
        if self._verbose:
            at = argv.index("-append") + 1
            argv[at] = " ".join([word for word in argv[at].split() if word != "quiet"] + ["loglevel=4"])
        return self.hardware(argv) if self.hardware else argv

    def wait_ready(self, limit_s: float = READY_LIMIT_S, path: str = "/readyz") -> float:
        """Waits until `path` answers 200; milliseconds since the start."""
        assert self._process is not None, "It was not started"
        problem = "no answer"
        while (elapsed := time.monotonic() - self._started) < limit_s:
            if self._process.poll() is not None:
                raise BootError(f"QEMU ended with status {self._process.returncode}\n{self.said()}\n{self.tail()}")
            try:
                # What was sent before the machine has a network is lost: better asked again soon than waited for. On a
                # machine that is slow to boot, answers may be slow as well.
                reply = http.request(self.port, "GET", path, timeout=1 + elapsed / 20)
                if reply.status == 200:
                    return (time.monotonic() - self._started) * 1000
                problem = str(reply)
            except OSError as error:
                problem = repr(error)
            except Exception as error:  # noqa: BLE001 - half an answer of a machine that is still coming up
                problem = repr(error)
            time.sleep(POLL_S)
        raise BootError(f"{path} gave no 200 within {limit_s} s (last: {problem}); the console ends with\n{self.tail()}")

    def boot(self, **wishes) -> float:
        """`start` and `wait_ready`."""
        self.start(**wishes)
        return self.wait_ready()

    @property
    def serial(self) -> Path:
        """The console's log of this boot; QEMU begins a new file each time."""
        return self.folder / f"serial-{self._boots}.log"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process of QEMU."""
        return self._process.pid if self._process else None

    def cut_power(self) -> None:
        """Ends QEMU without any warning; the disks stay as they are."""
        if self._process is None:
            return
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=30)
        self._process = None

    def press_power_button(self) -> None:
        """What a person at the machine does to switch it off in order."""
        with Qmp(self._qmp) as qmp:
            qmp.execute("system_powerdown")

    def press_keys(self, *keys: str) -> None:
        """What a person at its keyboard types, by QEMU's names of keys."""
        with Qmp(self._qmp) as qmp:
            for key in keys:
                qmp.execute("send-key", keys=[{"type": "qcode", "data": key}])
                time.sleep(0.2)

    def send_nmi(self) -> None:
        """What a management controller sends to a machine whose last words somebody wants."""
        with Qmp(self._qmp) as qmp:
            qmp.execute("inject-nmi")

    def physical(self, address: int) -> int:
        """Where in its memory lies what its processor knows as `address`."""
        with Qmp(self._qmp) as qmp:
            said = qmp.execute("human-monitor-command", **{"command-line": f"gva2gpa {address:#x}"})
        assert said.startswith("gpa: "), said
        return int(said.split()[1], 16)

    def stand_still(self) -> None:
        """From now on nothing happens in it any more, while its clocks go on."""
        path = self.folder / "gdb.sock"
        with Qmp(self._qmp) as qmp:
            # Gone with the connection, by itself: one that is reset has no debugger any more.
            said = qmp.execute("human-monitor-command", **{"command-line": f"gdbserver unix:{path},server=on,wait=off"})
        assert "Waiting for gdb" in said, said
        gdb.stand_still(path)

    def screen(self) -> str:
        """What its screen shows, if it has one in text mode."""
        path = self.folder / "screen"
        with Qmp(self._qmp) as qmp:
            # 80 letters a row, each followed by its colour; rows move down in this as the screen is scrolled.
            qmp.execute("pmemsave", val=0xB8000, size=0x8000, filename=str(path))
        letters = path.read_bytes()[::2].decode("cp437").replace("\0", " ")
        return "\n".join(letters[at:at + 80].rstrip() for at in range(0, len(letters), 80))

    def throttle_data(self, bytes_per_second: int = 0, reads_per_second: int = 0) -> None:
        """Slows reads of the data disk down from now on; without limits, as fast as it is again."""
        with Qmp(self._qmp) as qmp:
            qmp.execute(
                "block_set_io_throttle", device="data", bps=0, bps_rd=bytes_per_second, bps_wr=0,
                iops=0, iops_rd=reads_per_second, iops_wr=0,
            )

    @contextmanager
    def unreadable_data(self):
        """While this lasts, every read of the data disk fails; what is written is written."""
        with Qmp(self._qmp) as qmp:
            disk = self._backend(qmp, "mote-data")
            whole = next(entry for entry in qmp.execute("query-block") if entry["device"] == "data")
            node = whole["inserted"]["node-name"]
            fault = {"event": "none", "iotype": "read", "errno": errno.EIO, "once": False}
            qmp.execute(
                "blockdev-add", **{"driver": "blkdebug", "node-name": "unreadable", "image": node, "inject-error": [fault]}
            )
            qmp.execute("qom-set", path=disk, property="drive", value="unreadable")
        try:
            yield
        finally:
            with Qmp(self._qmp) as qmp:
                qmp.execute("qom-set", path=disk, property="drive", value=node)
                qmp.execute("blockdev-del", **{"node-name": "unreadable"})

    @staticmethod
    def _backend(qmp: Qmp, serial: str) -> str:
        """QEMU's path of the disk with this serial number."""
        for entry in qmp.execute("qom-list", path="/machine/peripheral-anon"):
            if entry["type"] == "child<virtio-blk-pci>":
                path = f"/machine/peripheral-anon/{entry['name']}/virtio-backend"
                if qmp.execute("qom-get", path=path, property="serial") == serial:
                    return path
        raise AssertionError(f"No disk has the serial number {serial}")

    def wait_off(self, limit_s: float = STOP_LIMIT_S) -> float:
        """Waits until the machine has switched itself off; seconds it took."""
        start = time.monotonic()
        try:
            status = self._process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"Still on after {limit_s} s; the console ends with\n{self.tail()}") from None
        self._process = None
        assert status == 0, f"QEMU ended with status {status}\n{self.said()}"
        return time.monotonic() - start

    def close(self, keep: bool = False) -> None:
        """Ends the machine and removes all its files, unless they are to be kept."""
        self.cut_power()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # Observation

    def console(self) -> str:
        """Everything the machine has written to its serial console in this boot, or its last."""
        try:
            return self.serial.read_text("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def consoles(self) -> str:
        """The same of all its boots."""
        logs = sorted(self.folder.glob("serial-*.log"), key=lambda path: int(path.stem.split("-")[1]))
        return "\n".join(log.read_text("utf-8", "replace") for log in logs)

    def tail(self, lines: int = 60) -> str:
        """The end of the console."""
        return "\n".join(self.console().splitlines()[-lines:])

    def said(self) -> str:
        """What QEMU itself had to say."""
        return self._said.read_text("utf-8", "replace")[-4000:] if self._said.exists() else ""

    def get(self, path: str, **wishes) -> http.Reply:
        return http.request(self.port, "GET", path, **wishes)

    def post(self, path: str, body=None, **wishes) -> http.Reply:
        return http.request(self.port, "POST", path, body, **wishes)

    def status(self) -> dict:
        """`GET /system/status`."""
        reply = self.get("/system/status", timeout=30)
        assert reply.status == 200, str(reply)
        return reply.json

    def is_another_boot(self, boot_id: str) -> bool:
        """Whether it is ready, in another boot than this."""
        try:
            return self.get("/readyz", timeout=5).status == 200 and self.status()["boot_id"] != boot_id
        except Exception:  # noqa: BLE001 - it is just going down or coming up
            return False

    def clock(self) -> float:
        """What the machine takes for the time, seconds since 1970: read from a chip that knows seconds, and an emulated
        one, which may run slower than this machine's."""
        return self.status()["unix_ms"] / 1000

    def data_disk(self) -> dict:
        """What `GET /healthz` says of the data disk."""
        parts = [part for part in self.get("/healthz").json["components"] if part["name"] == "data-disk"]
        assert len(parts) == 1, parts
        return parts[0]

    def put_away(self) -> None:
        """Puts all idle sandboxes away: the next call of any function comes from its snapshot."""
        reply = http.request(self.port, "DELETE", "/system/sandboxes", timeout=60)
        assert reply.status == 200, str(reply)
