"""Buildroot makes the same image: the tree in buildroot/ passes its lint, its configuration is taken whole, and, in
`make release-check`, all of it is built without the internet and boots.

Needs a checkout of buildroot, which nobody can download as a package: its path in BUILDROOT_DIR. A build begins anew;
with BUILDROOT_OUTPUT, a folder, it goes on there and what it made is kept."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mote import client, disk, packages
from mote.appliance import ROOT, image_tool

BUILDROOT = os.environ.get("BUILDROOT_DIR")
KEPT = os.environ.get("BUILDROOT_OUTPUT")
if not BUILDROOT:
    pytest.skip("BUILDROOT_DIR names no checkout of buildroot", allow_module_level=True)

TREE = ROOT / "buildroot"
WORK = ROOT / "dist" / "buildroot"
DEFCONFIG = "configs/mote_x86_64_defconfig"
VARIANTS = {"upstream": [DEFCONFIG], "offline": [DEFCONFIG, "offline.fragment"]}
BUILD_LIMIT_S = 2 * 3600
# What the tables of partitions say, the second sector on.
TABLE = slice(512, 34 * 512)


def make(out: Path, *goals: str, limit_s: float, **variables: str) -> None:
    """Runs buildroot with everything it makes in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    settings = {"O": out, "BR2_EXTERNAL": TREE, "BR2_DL_DIR": out / "dl", **variables}
    command = ["nice", "-n", "19", "make", "-C", BUILDROOT, *(f"{name}={value}" for name, value in settings.items())]
    log = out / "log"
    with open(log, "ab") as said:
        running = subprocess.Popen(
            [*command, *goals],
            stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "MOTE_OFFLINE": str(WORK / "offline")},
        )
        try:
            code = running.wait(limit_s)
        finally:
            # With all the compilers it has started.
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()
    assert code == 0, f"{log}:\n{log.read_bytes()[-6000:].decode(errors='replace')}"


def configure(out: Path, variant: str) -> Path:
    """Loads a configuration; the file that was asked for."""
    wanted = out / "wanted_defconfig"
    out.mkdir(parents=True, exist_ok=True)
    target = os.environ.get("CARGO_TARGET_DIR")
    text = "".join((TREE / part).read_text() for part in VARIANTS[variant])
    if target:
        text += f'BR2_MOTE_BINARIES="{ROOT / target / "x86_64-unknown-linux-gnu/release"}"\n'
    wanted.write_text(text)
    make(out, "defconfig", limit_s=300, BR2_DEFCONFIG=str(wanted))
    return wanted


def table(image: Path) -> bytes:
    """What an image says of its partitions."""
    with open(image, "rb") as file:
        return file.read(TABLE.stop)[TABLE]


def test_the_tree_passes_the_lint():
    command = ["git", "ls-files", "-z", "buildroot"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [name for name in listed.stdout.split("\0") if name]
    assert "buildroot/external.desc" in files
    lint = ["/usr/bin/python3", f"{BUILDROOT}/utils/check-package", "-b", "-v", *files]
    done = subprocess.run(lint, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_configuration_is_taken_whole(variant, tmp_path):
    wanted = configure(tmp_path, variant)
    check = [*image_tool(), "check-config", str(wanted), str(tmp_path / ".config")]
    done = subprocess.run(check, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def images():
    """Everything from sources, or from Debian where buildroot would ask the internet."""
    output = Path(KEPT or WORK / "output").resolve()
    if not KEPT:
        shutil.rmtree(output, ignore_errors=True)
    start = time.monotonic()
    subprocess.run(["sh", TREE / "offline/prepare.sh", WORK / "offline"], check=True, timeout=1800)
    try:
        configure(output, "offline")
        # Buildroot does not see that cargo made others since.
        made_by_cargo = [f"mote-{part}-reinstall" for part in ("init", "hostd", "agent", "runtimes")]
        make(output, *made_by_cargo, "all", limit_s=BUILD_LIMIT_S)
        print(f"built in {time.monotonic() - start:.0f} s")
        yield output / "images"
    finally:
        if not KEPT:
            shutil.rmtree(output / "build", ignore_errors=True)


@pytest.mark.skipif(not os.environ.get("MOTE_RELEASE_CHECK"), reason="takes a quarter of an hour: make release-check")
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_what_it_builds_boots(images, own_box, tmp_path, firmware):
    tables = [table(folder / "mote-x86_64.img") for folder in (images, ROOT / "dist")]
    assert tables[0] == tables[1], "the partitions are not those of `make image`"
    image = disk.make(tmp_path / "mote.img", dist=images, grub=images / "parts/grub")
    copy = disk.Disk(image, tmp_path / "disk.img")

    machine = own_box(disk=copy.path, firmware=firmware)
    machine.start()
    print(f"{firmware}: ready {machine.wait_ready(disk.READY_LIMIT_S) / 1000:.1f} s after power-on")
    assert "mote: FAILED" not in machine.console()
    data = machine.data_disk()
    assert data["ok"] and "has grown" in data["reason"] and "formatted" in data["reason"], data
    lambdas = client.lambda_client(machine.port)
    client.create(lambdas, "here", packages.answering("here"))
    answer = client.invoke(lambdas, "here", {})
    assert answer.error is None and answer.json["code"] == "here", str(answer)
