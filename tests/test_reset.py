"""Data wipe and factory reset: asked for twice, finished whatever happens to the power, and done once."""

import re
import time

import pytest

from mote import client, http, packages
from mote.client import invoke
from mote.waiting import until

SETTING = "[sandbox]\nidle_timeout_s = 77\n"
WIPING = "data: wiping"


@pytest.fixture(scope="module")
def machine(module_box):
    made = module_box(data_mb=256)
    made.boot()
    return made


def furnish(box):
    """A function, and a setting."""
    lambdas = client.lambda_client(box.port)
    client.create(lambdas, "gone", packages.answering("gone"))
    assert invoke(lambdas, "gone", {}).json["code"] == "gone"
    assert http.request(box.port, "PUT", "/system/config", SETTING.encode()).status == 200


def setting(box) -> bool:
    return "idle_timeout_s = 77" in box.get("/system/config").text


def functions(box) -> list:
    return [one["FunctionName"] for one in client.lambda_client(box.port).list_functions()["Functions"]]


def reset(box, what: str) -> str:
    """Asks twice; the name of the boot that ends with it."""
    boot_id = box.status()["boot_id"]
    asked = box.post("/system/reset", {"what": what})
    assert asked.status == 200 and asked.json["valid_s"] == 60, str(asked)
    confirmed = box.post("/system/reset", {"what": what, "confirm": asked.json["confirm"]})
    assert confirmed.status == 202, str(confirmed)
    return boot_id


def wait_for_another_boot(box, boot_id):
    assert until(lambda: box.is_another_boot(boot_id), 120), box.tail()


def test_nothing_is_wiped_by_one_request_or_a_wrong_one(machine):
    furnish(machine)
    asked = machine.post("/system/reset", {"what": "data"}).json["confirm"]
    for body, status in (
        ({}, 400),
        ({"what": "everything"}, 400),
        ({"what": "data", "sure": True}, 400),
        ({"what": "data", "confirm": "yes"}, 412),
        ({"what": "factory", "confirm": asked}, 412),
    ):
        assert machine.post("/system/reset", body).status == status, body
    assert functions(machine) == ["gone"] and setting(machine)


def test_a_factory_reset_takes_all(machine):
    wait_for_another_boot(machine, reset(machine, "factory"))
    data = machine.data_disk()
    assert data["ok"] and "wiped" in data["reason"] and "formatted" in data["reason"], data
    assert functions(machine) == [] and not setting(machine)


def test_data_goes_and_what_was_set_stays_whenever_the_power_goes(machine):
    furnish(machine)
    reset(machine, "data")
    wiping = 0
    for pause_s in (0.0, 0.5, None):
        # At first when it is ordered only.
        machine.cut_power()
        machine.start()
        assert until(lambda: re.search(f"{WIPING}|ready address=", machine.console()), 120), machine.tail()
        wiping += WIPING in machine.console()
        if WIPING not in machine.console() or pause_s is None:
            break  # it was finished before the last cut
        time.sleep(pause_s)
    machine.wait_ready()
    assert wiping >= 2 and functions(machine) == [] and setting(machine)
    assert machine.data_disk()["ok"], machine.data_disk()


def test_it_wipes_once_and_no_word_but_the_right_one_does(machine):
    furnish(machine)
    machine.cut_power()
    machine.boot(options={"reset": "all"})
    assert functions(machine) == ["gone"] and "wiped" not in machine.data_disk()["reason"]
    health = machine.get("/healthz").text
    assert "mote.reset=all is neither data nor factory" in health, health
