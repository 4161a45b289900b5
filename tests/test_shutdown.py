"""Switching off in order: by the power button and by the API; what is stored stays, what runs may end."""

import re
import threading
import time
from contextlib import contextmanager

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from mote import client, packages
from mote.client import invoke, refused
from mote.waiting import until

LIMIT_S = 30
CHECKED = re.compile("checked|formatted", re.IGNORECASE)


@pytest.fixture(scope="module")
def machine(module_box):
    """With a function that has a snapshot. The tests hand it on, switched on or off."""
    made = module_box(verbose=True)
    made.boot()
    lambdas = client.lambda_client(made.port)
    client.create(lambdas, "stays", packages.function("probe"))
    assert invoke(lambdas, "stays", {"op": "echo"}).json["calls"] == 1
    return made


@pytest.fixture
def box(machine):
    """The machine, running."""
    if not machine.running:
        machine.boot()
    return machine


@pytest.fixture(scope="module")
def lambdas(machine):
    return client.lambda_client(machine.port)


@contextmanager
def call_under_way(box, lambdas, seconds):
    """A call that sleeps, begun before and awaited after the block; gives a list of its answer, or of why it got none."""
    got = []

    def call():
        try:
            got.append(invoke(lambdas, "stays", {"op": "sleep", "seconds": seconds}))
        except (BotoCoreError, ClientError) as error:
            got.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert until(lambda: any(sandbox["state"] == "busy" for sandbox in box.get("/system/sandboxes").json), 20)
    yield got
    thread.join(30)
    assert got, "The call has not ended"


def assert_orderly(box):
    """The console shows the steps in their order, and no data was left to chance."""
    console = box.console()
    steps = ["stopping: ", "hostd: ", "sandboxes: ", "processes: ", "flush: all written", "unmount: .*/data", "mote: .*(power off|restart|reboot)"]
    at = 0
    for step in steps:
        found = re.compile(step).search(console, at)
        assert found, f"'{step}' is missing or out of order\n{box.tail()}"
        at = found.start()


def test_power_button_then_everything_is_still_there(box, lambdas):
    with call_under_way(box, lambdas, 5) as slow:
        box.press_power_button()
        assert until(lambda: box.get("/readyz").status == 503, 20)
        # Who comes now is told so.
        for refuse in (
            lambda: invoke(lambdas, "stays", {"op": "echo"}),
            lambda: client.create(lambdas, "late", packages.answering("late")),
        ):
            with refused() as refusal:
                refuse()
            assert (refusal[0].status, refusal[0].type) == (503, "ServiceException"), refusal
            assert int(refusal[0].headers["retry-after"]) > 0 and "shutting down" in refusal[0].message, refusal
        seconds = box.wait_off(LIMIT_S)
    # A call that was running was allowed to end, and its caller got the answer.
    assert slow[0].json == {"slept": 5, "tag": None}
    assert seconds < LIMIT_S
    assert_orderly(box)
    box.boot()
    data = box.data_disk()
    assert data["ok"] and not CHECKED.search(data["reason"]), data
    answer = invoke(lambdas, "stays", {"op": "echo"})
    assert (answer.error, answer.served_by) == (None, "restore")


def test_api_switches_off_and_restarts(box, lambdas):
    boot_id = box.status()["boot_id"]
    reply = box.post("/system/reboot")
    assert reply.status in (200, 202), str(reply)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            if box.get("/readyz", timeout=5).status == 200 and box.status()["boot_id"] != boot_id:
                break
        except Exception:  # noqa: BLE001 - it is just going down or coming up
            pass
        time.sleep(0.2)
    assert box.status()["boot_id"] != boot_id, "It did not restart"
    assert not CHECKED.search(box.data_disk()["reason"])
    assert invoke(lambdas, "stays", {"op": "echo"}).served_by == "restore"

    reply = box.post("/system/shutdown")
    assert reply.status in (200, 202), str(reply)
    box.wait_off(LIMIT_S)
    assert_orderly(box)


def test_after_a_power_cut_the_disk_is_checked_and_snapshots_serve(box, lambdas):
    box.put_away()
    assert invoke(lambdas, "stays", {"op": "echo"}).served_by == "restore"
    box.cut_power()
    box.boot()
    data = box.data_disk()
    assert data["ok"] and CHECKED.search(data["reason"]), data
    answer = invoke(lambdas, "stays", {"op": "echo"})
    assert (answer.error, answer.served_by, answer.json["calls"]) == (None, "restore", 1)


def test_a_long_call_does_not_hold_the_power_off(box, lambdas):
    # That it gets no answer is the price.
    with call_under_way(box, lambdas, 25):
        box.press_power_button()
        assert box.wait_off(LIMIT_S) < 24
