"""The disk image boots by itself, whatever firmware and bus; of its two slots, one that is damaged or bad gives way."""

import re

import pytest

from mote import client, disk, packages
from mote.appliance import ROOT
from mote.disk import DISK_BYTES, READY_LIMIT_S, booted
from mote.waiting import until

GIB = 1 << 30
# With Python and all.
COMPRESSED_AT_MOST = 120_000_000


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return disk.make(tmp_path_factory.mktemp("image") / "mote.img")


@pytest.fixture
def copy(image, tmp_path):
    made = disk.Disk(image, tmp_path / "disk.img")
    yield made
    made.path.unlink()


def test_what_is_passed_on_is_small():
    compressed = ROOT / "dist/mote-x86_64.img.zst"
    size = compressed.stat().st_size
    print(f"{compressed.name}: {size / 1e6:.1f} MB")
    assert size <= COMPRESSED_AT_MOST


@pytest.mark.parametrize("bus", ["virtio", "nvme", "ahci"])
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_it_boots_and_answers_a_function(copy, own_box, firmware, bus, record_property):
    machine = own_box(disk=copy.path, firmware=firmware, bus=bus)
    machine.start()
    ready_s = machine.wait_ready(READY_LIMIT_S) / 1000
    kernel_s = float(re.search(r"ready address=\S+ after=([\d.]+)s", until(lambda: ready_line(machine))).group(1))
    print(f"{firmware} {bus}: ready {ready_s:.1f} s after power-on, {kernel_s:.1f} s after the kernel's start")
    record_property("ready_s", ready_s)
    assert "mote: FAILED" not in machine.console()

    data = machine.data_disk()
    assert data["ok"] and "has grown" in data["reason"] and "formatted" in data["reason"], data
    assert machine.status()["data_disk"]["total_bytes"] > 2 * GIB
    assert DISK_BYTES - 2 * disk.MIB <= copy.end_of("mote-data") <= DISK_BYTES - disk.MIB

    lambdas = client.lambda_client(machine.port)
    client.create(lambdas, "here", packages.answering("here"))
    answer = client.invoke(lambdas, "here", {})
    assert answer.error is None and answer.json["code"] == "here", str(answer)


def ready_line(machine):
    return next((line for line in machine.console().splitlines() if "ready address=" in line), None)


def two_slots(copy, **variables):
    """Two good slots of the same version."""
    copy.copy_slot()
    version = copy.variables()["mote_a"].removeprefix("good ")
    copy.set(mote_b=f"good {version}", **variables)
    return version


def test_data_stays_and_grows_once_until_it_is_wiped_in_the_boot_menu(copy, own_box):
    machine = own_box(disk=copy.path)
    machine.start()
    # Left alone, the menu goes on by itself; and noise on a line, which is hardly twice the right key, does not even open it.
    open_menu(machine)
    machine.wait_ready(READY_LIMIT_S)
    assert booted(machine.console()) == "a"
    client.create(client.lambda_client(machine.port), "stays", packages.answering("stays"))
    machine.cut_power()
    machine.start()
    machine.wait_ready(READY_LIMIT_S)
    data = machine.data_disk()
    assert data["ok"] and "grown" not in data["reason"] and "formatted" not in data["reason"], data
    answer = client.invoke(client.lambda_client(machine.port), "stays", {})
    assert answer.error is None and answer.json["code"] == "stays", str(answer)

    machine.cut_power()
    machine.start()
    open_menu(machine)
    # Behind the slots, the pause and the safe boot; there is a second question, and "no" comes first.
    machine.press_keys("down", "down", "down", "down", "ret")
    assert until(lambda: "Yes, wipe it" in machine.console(), 60), machine.console()
    machine.press_keys("down", "ret")
    machine.wait_ready(READY_LIMIT_S)
    assert "mote.reset=data" in machine.console() and "data: wiping" in machine.console(), machine.tail()
    data = machine.data_disk()
    assert data["ok"] and "wiped" in data["reason"], data
    assert client.lambda_client(machine.port).list_functions()["Functions"] == []


def open_menu(machine):
    assert until(lambda: "Esc for a menu" in machine.console(), 60), machine.console()
    machine.press_keys("esc")
    assert until(lambda: "Esc again" in machine.console(), 60), machine.console()
    machine.press_keys("esc")
    assert until(lambda: "Factory reset" in machine.console(), 60), machine.console()


def test_a_kernel_with_a_flipped_bit_is_not_started(copy, own_box):
    version = two_slots(copy)
    copy.flip(copy.in_slot("a", b"\x7fELF") + 4096)  # init, in the initramfs
    machine = own_box(disk=copy.path)
    machine.start()
    machine.wait_ready(READY_LIMIT_S)
    assert booted(machine.console()) == "ab", machine.tail()
    # What runs instead, and answers, is the good one from now on.
    assert until(lambda: copy.variables()["mote_slot"] == "b", 60), copy.variables()
    assert (copy.variables()["mote_a"], copy.variables()["mote_b"]) == ("", f"good {version}")


def test_a_system_with_a_flipped_bit_gives_way(copy, own_box):
    """Wherever it is: it is found when all is read through, if nobody came across it before."""
    two_slots(copy)
    start, _ = copy.parts["system-a"]
    copy.flip(start + 20 * disk.MIB)
    machine = own_box(disk=copy.path)
    machine.start()
    assert until(lambda: copy.variables()["mote_slot"] == "b", READY_LIMIT_S), f"{copy.variables()}\n{machine.tail()}"
    assert until(lambda: booted(machine.console()) == "ab", 60), machine.tail()
    machine.wait_ready(READY_LIMIT_S)
    assert copy.variables()["mote_a"] == ""


def test_a_system_that_cannot_be_mounted_gives_way_at_once(copy, own_box):
    two_slots(copy)
    start, _ = copy.parts["system-a"]
    copy.flip(start + 1024)  # the superblock
    machine = own_box(disk=copy.path)
    machine.start()
    assert until(lambda: copy.variables()["mote_slot"] == "b", READY_LIMIT_S), f"{copy.variables()}\n{machine.tail()}"
    machine.wait_ready(READY_LIMIT_S)
    assert booted(machine.console()) == "ab" and "ready" not in machine.console().split("Mote: slot b")[0]


def test_a_trial_that_answers_is_good(copy, own_box):
    version = two_slots(copy, mote_trial="b", mote_tries="2")
    copy.set(mote_b="new 9.9.9")
    machine = own_box(disk=copy.path)
    machine.start()
    machine.wait_ready(READY_LIMIT_S)
    assert booted(machine.console()) == "b", machine.tail()
    assert until(lambda: copy.variables()["mote_slot"] == "b", 60), copy.variables()
    state = copy.variables()
    assert (state["mote_trial"], state["mote_a"], state["mote_b"]) == ("", f"good {version}", "good 9.9.9")


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_a_trial_of_a_bad_system_falls_back(copy, own_box, firmware):
    """The firmware matters: the boot loader counts the tries through it."""
    two_slots(copy, mote_trial="b", mote_tries="2")
    copy.set(mote_b="new 9.9.9")
    start, _ = copy.parts["system-b"]
    copy.flip(start + 1024)
    machine = own_box(disk=copy.path, firmware=firmware)
    machine.start()
    assert until(lambda: copy.variables()["mote_failed"] == "9.9.9", READY_LIMIT_S), machine.tail()
    machine.wait_ready(READY_LIMIT_S)
    state = copy.variables()
    assert (state["mote_slot"], state["mote_trial"], state["mote_b"]) == ("a", "", "failed 9.9.9")
    assert firmware == "uefi" or booted(machine.console()) == "ba", machine.tail()
