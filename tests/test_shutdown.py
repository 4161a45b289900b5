"""Switching off in order: by the power button and by the API; what is stored stays, what runs may end."""

import re
import threading
import time

from mote import client, packages
from mote.client import invoke

LIMIT_S = 30
CHECKED = re.compile("checked|formatted", re.IGNORECASE)


def prepared(own_box):
    box = own_box(verbose=True)
    box.boot()
    lambdas = client.lambda_client(box.port)
    client.create(lambdas, "stays", packages.function("probe"))
    assert invoke(lambdas, "stays", {"op": "echo"}).json["calls"] == 1
    return box, lambdas


def assert_orderly(box):
    """The console shows the steps in their order, and no data was left to chance."""
    console = box.console()
    steps = ["stopping: ", "hostd: ", "sandboxes: ", "processes: ", "flush: all written", "unmount: .*/data", "mote: .*(power off|restart|reboot)"]
    at = 0
    for step in steps:
        found = re.compile(step).search(console, at)
        assert found, f"'{step}' is missing or out of order\n{box.tail()}"
        at = found.start()


def test_power_button_then_everything_is_still_there(own_box):
    box, lambdas = prepared(own_box)
    slow: dict = {}

    def call():
        own = client.lambda_client(box.port)
        slow["answer"] = invoke(own, "stays", {"op": "sleep", "seconds": 3})
        own.close()

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(1)
    box.press_power_button()
    seconds = box.wait_off(LIMIT_S)
    thread.join(30)
    # A call that was running was allowed to end, and its caller got the answer.
    assert slow["answer"].json == {"slept": 3, "tag": None}
    assert seconds < LIMIT_S
    assert_orderly(box)
    box.boot()
    data = box.data_disk()
    assert data["ok"] and not CHECKED.search(data["reason"]), data
    answer = invoke(lambdas, "stays", {"op": "echo"})
    assert (answer.error, answer.served_by) == (None, "restore")


def test_api_switches_off_and_restarts(own_box):
    box, lambdas = prepared(own_box)
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
        time.sleep(0.5)
    assert box.status()["boot_id"] != boot_id, "It did not restart"
    assert not CHECKED.search(box.data_disk()["reason"])
    assert invoke(lambdas, "stays", {"op": "echo"}).served_by == "restore"

    reply = box.post("/system/shutdown")
    assert reply.status in (200, 202), str(reply)
    box.wait_off(LIMIT_S)
    assert_orderly(box)


def test_after_a_power_cut_the_disk_is_checked_and_snapshots_serve(own_box):
    box, lambdas = prepared(own_box)
    box.put_away()
    assert invoke(lambdas, "stays", {"op": "echo"}).served_by == "restore"
    box.cut_power()
    box.boot()
    data = box.data_disk()
    assert data["ok"] and CHECKED.search(data["reason"]), data
    answer = invoke(lambdas, "stays", {"op": "echo"})
    assert (answer.error, answer.served_by, answer.json["calls"]) == (None, "restore", 1)


def test_a_long_call_does_not_hold_the_power_off(own_box):
    box, lambdas = prepared(own_box)

    def call():
        own = client.lambda_client(box.port)
        try:
            invoke(own, "stays", {"op": "sleep", "seconds": 25})
        except Exception:  # noqa: BLE001 - that it gets no answer is the price
            pass
        own.close()

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(1)
    box.press_power_button()
    assert box.wait_off(LIMIT_S) < 24
    thread.join(30)
