"""Machines with something wrong: each comes up, answers, and says at /healthz what it is.

What else there is of that: no data disk and one that is damaged (test_degraded), a full one (test_full_disk), reads that fail
while the machine runs (test_paging), partitions and slots (test_disk).
"""

import io
import os
import tarfile

import pytest

from mote import client, disk, hardware, packages
from mote.client import invoke, refused
from mote.waiting import until

MIB = 1 << 20
# Of the data disk: the partition begins at 1 MiB, and the superblock a KiB behind that.
SUPERBLOCK = (MIB + 1024) // 512
# An interface is given up on after 30 s; that, on a slow machine.
TOLD_S = 120


def wrong(box) -> dict:
    """What /healthz says is wrong, by component."""
    health = box.get("/healthz", timeout=30)
    assert health.status == 200, str(health)
    reasons = {}
    for part in health.json["components"]:
        if not part["ok"]:
            assert part["reason"], f"{part['name']} gives no reason"
            reasons[part["name"]] = (reasons.get(part["name"], "") + " " + part["reason"]).strip()
    return reasons


def told(box, component: str, *words: str) -> str:
    """Waits until /healthz says this of a component."""
    def found():
        reason = wrong(box).get(component, "")
        return reason if all(word in reason for word in words) else None

    reason = until(found, TOLD_S)
    assert reason, f"{component}: {words} not in {wrong(box)}\n{box.tail()}"
    return reason


def expect_no_service(box):
    assert box.get("/readyz").status == 503
    with refused() as refusal:
        client.create(client.lambda_client(box.port), "homeless", packages.answering("x"))
    assert refusal[0].status == 507 and "disk" in refusal[0].message.lower(), refusal


def test_at_1970_without_uart_time_servers_all_addresses_and_a_disk_that_is_large_enough(own_box):
    """All at once: one does not hide the other."""
    odd = hardware.all_of(hardware.clock_at("1970-01-01T00:00:00"), hardware.without_uart, hardware.with_a_dead_cable)
    box = own_box(hardware=odd, options={"ntp.servers": "192.0.2.1"})
    disk.make_small_data(box.data, 16 * MIB)
    box.start()
    box.wait_ready(path="/healthz")
    # A clock that is wrong is not believed: never before the system was built.
    assert box.clock() > 1_790_000_000
    told(box, "appliance", "too small")
    expect_no_service(box)
    told(box, "clock", "192.0.2.1")
    told(box, "addresses", "eth1", "DHCP")
    assert set(wrong(box)) == {"appliance", "clock", "addresses"}, wrong(box)
    assert box.console() == ""


def test_without_a_network_card(own_box):
    """Nobody can ask it: it says so on its consoles, and switches off in order."""
    box = own_box(hardware=hardware.without_network)
    box.start()
    assert until(lambda: "ready address=none" in box.console(), TOLD_S), box.tail()
    assert until(lambda: "status: problem: addresses: No network card was found" in box.console(), TOLD_S), box.tail()
    assert "hostd: started" in box.console() or "Serving address" in box.console(), box.tail()
    box.press_power_button()
    box.wait_off()


@pytest.fixture(scope="module")
def used(module_box):
    """A machine, off, with a function on its data disk."""
    box = module_box(data_mb=256)
    box.boot()
    lambdas = client.lambda_client(box.port)
    client.create(lambdas, "stays", packages.answering("stays"))
    assert invoke(lambdas, "stays", {}).json["code"] == "stays"
    box.press_power_button()
    box.wait_off()
    return box


def switch_on(box, change, **wishes):
    box.hardware = change
    box.start(**wishes)
    box.wait_ready(path="/healthz")


def test_a_data_disk_with_a_dying_sector(used):
    """The sector without which nothing on it is found."""
    switch_on(used, hardware.with_dying_sector(SUPERBLOCK, used.folder))
    assert "cannot read" in told(used, "appliance", "Data disk failed")
    expect_no_service(used)
    used.cut_power()


def test_a_write_protected_data_disk_serves_what_is_there(used):
    """And with another cable, all is there."""
    switch_on(used, hardware.write_protected)
    told(used, "data-disk", "write-protected")
    lambdas = client.lambda_client(used.port)
    assert invoke(lambdas, "stays", {}).json["code"] == "stays"
    with refused() as refusal:
        client.create(lambdas, "late", packages.answering("late"))
    assert refusal[0].status == 507, refusal
    # Nor is it wiped.
    assert used.post("/system/reset", {"what": "data"}).status == 409
    used.cut_power()


def test_at_2099_without_virtualisation_with_two_tenants_of_one_name_and_a_disk_of_another_format(used):
    """The disk is left alone until it is wiped; then the machine offers what works without virtual machines."""
    with open(used.data, "r+b") as file:
        file.seek(MIB)
        file.write(b"XFSB" + os.urandom(4 * MIB))
        file.seek(used.data.stat().st_size - 2 * MIB)
        file.write(os.urandom(MIB // 2))
    odd = hardware.all_of(hardware.clock_at("2099-06-01T00:00:00"), hardware.without_kvm)
    switch_on(used, odd, options={"network.tenants": "[{name='blue',vni=2},{name='blue',vni=3}]"})
    # A clock that is ahead is not set back while the machine runs: that is NTP's to say.
    assert used.clock() > 4_000_000_000
    appliance = told(used, "appliance", "not ext4", "left alone", "/dev/kvm", "network.tenants")
    assert "blue" in appliance, appliance
    expect_no_service(used)

    # The way out that needs nobody at the machine.
    asked = used.post("/system/reset", {"what": "factory"})
    assert asked.status == 200, str(asked)
    boot_id = used.status().get("boot_id")
    assert used.post("/system/reset", {"what": "factory", "confirm": asked.json["confirm"]}).status == 202
    assert until(lambda: used.is_another_boot(boot_id), 120), used.tail()
    data = used.data_disk()
    assert data["ok"] and "wiped" in data["reason"], data
    # Code is taken, calls are told why not, nothing hangs.
    lambdas = client.lambda_client(used.port)
    client.create(lambdas, "waits", packages.answering("waits"))
    with refused() as refusal:
        invoke(lambdas, "waits", {})
    assert refusal[0].status >= 500, refusal
    used.cut_power()


def test_the_kernel_is_locked_down(box):
    """Whatever became of hostd: even root gets no further."""
    with tarfile.open(fileobj=io.BytesIO(box.get("/system/bundle", timeout=60).body)) as bundle:
        names = bundle.getnames()
        lockdown = next(name for name in names if name.endswith("kernel/lockdown"))
        assert b"[confidentiality]" in bundle.extractfile(lockdown).read()
    # The kernel does not even have the list.
    assert not any(name.endswith("kernel/modules") for name in names)
