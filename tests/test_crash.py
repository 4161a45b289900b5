"""What a machine does that crashed or stands still: it starts anew by itself, and says afterwards what happened. And its screen,
which tells whoever stands before it.

One machine, in this order. Its console may tell of disasters.
"""

import re
import time

import pytest

from mote import client, hardware, packages
from mote.appliance import Appliance
from mote.client import invoke
from mote.waiting import until

# The kernel waits for 10 s, so that the reason can be read.
PANIC_LIMIT_S = 120
# The watchdog counts to 30.
HUNG_LIMIT_S = 180
# Where the kernel's code would be if it were not moved, and what it says of that when it panics.
KERNEL_TEXT = 0xFFFFFFFF81000000
MOVED = re.compile(r"Kernel Offset: (0x[0-9a-f]+) ")
# The command line keeps it below, so that it never lands on the last words of the one before, high in memory.
KERNEL_BELOW = 512 << 20


@pytest.fixture(scope="module")
def machine():
    with Appliance(hardware=hardware.all_of(hardware.with_watchdog, hardware.with_screen)) as made:
        made.boot()
        yield made


def another_boot(box, boot_id: str, limit_s: float) -> float:
    """Waits until the machine has started anew; seconds it took."""
    start = time.monotonic()
    assert until(lambda: box.is_another_boot(boot_id), limit_s), box.tail()
    return time.monotonic() - start


def crashes(box, kind: str) -> list:
    """Records of this kind, whole."""
    found = [one for one in box.get("/system/crashes").json["crashes"] if one["kind"] == kind]
    return [box.get(f"/system/crashes/{one['id']}").json for one in found]


def test_the_screen_says_how_it_stands(machine):
    def shown():
        rows = [row.strip() for row in machine.screen().splitlines()]
        return rows if "ready" in rows else None

    rows = until(shown, 60)
    assert rows, machine.screen()
    assert "http://10.0.2.15:8080/" in rows, rows
    assert any(re.fullmatch(r"Mote  mote  version \d.*", row) for row in rows), rows


def test_a_kernel_that_panics_starts_anew_and_its_last_words_are_kept(machine):
    lambdas = client.lambda_client(machine.port)
    client.create(lambdas, "stays", packages.answering("stays"))
    boot_id = machine.status()["boot_id"]
    assert machine.get("/system/crashes").json["crashes"] == []
    machine.send_nmi()
    moved = until(lambda: MOVED.search(machine.console()), 30)
    assert moved, machine.tail()
    assert machine.physical(KERNEL_TEXT + int(moved[1], 16)) < KERNEL_BELOW
    print(f"again after {another_boot(machine, boot_id, PANIC_LIMIT_S):.1f} s")
    [crash] = crashes(machine, "kernel")
    assert crash["reason"].startswith("Kernel panic - not syncing: NMI"), crash
    assert crash["times"] == 1 and "Call Trace" in crash["text"], crash["text"][-2000:]
    assert invoke(client.lambda_client(machine.port), "stays", {}).json["code"] == "stays"


def test_a_machine_that_stands_still_is_reset_by_its_watchdog(machine):
    boot_id = machine.status()["boot_id"]
    machine.stand_still()
    with pytest.raises(OSError):
        machine.get("/healthz", timeout=5)
    print(f"again after {another_boot(machine, boot_id, HUNG_LIMIT_S):.1f} s")
    [crash] = crashes(machine, "watchdog")
    assert "i6300ESB timer" in crash["reason"] and crash["boot_id"] == machine.status()["boot_id"], crash
    # Nothing is told twice.
    [panic] = crashes(machine, "kernel")
    assert panic["times"] == 1, panic
    assert invoke(client.lambda_client(machine.port), "stays", {}).json["code"] == "stays"
