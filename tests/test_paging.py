"""Restores by what a call was recorded to use: right answers whatever happens to disk and snapshot meanwhile."""

import threading

import pytest

from mote import client, http, packages
from mote.client import invoke

EVENT = {"op": "echo", "n": 7}


@pytest.fixture(scope="module")
def machine(module_box):
    made = module_box(options={"snapshot.mode": "faasnap"})
    made.boot()
    return made


@pytest.fixture(scope="module")
def lambdas(machine):
    return client.lambda_client(machine.port)


@pytest.fixture(scope="module")
def recorded(machine, lambdas):
    """A function whose snapshot has the files for a quick restore."""
    client.create(lambdas, "recorded", packages.function("probe"))
    reply = http.request(machine.port, "POST", "/system/snapshots/recorded/record", EVENT, timeout=120)
    assert reply.status == 200 and reply.json["paging"]["loading_pages"] > 0, str(reply)
    return "recorded"


def restored(machine, lambdas, name, mode):
    machine.put_away()
    reply = http.request(
        machine.port, "POST", f"/2015-03-31/functions/{name}/invocations", EVENT, timeout=120,
        headers={"X-Mote-Start": "restore", "X-Mote-Restore-Mode": mode},
    )
    assert (reply.status, reply.headers["x-mote-served-by"]) == (200, "restore"), str(reply)
    assert reply.headers.get("x-amz-function-error") is None, str(reply)
    return reply.json


@pytest.mark.parametrize("mode", ["lazy", "cached", "reap", "faasnap"])
def test_every_mode_answers_alike(machine, lambdas, recorded, mode):
    for _ in range(2):
        answer = restored(machine, lambdas, recorded, mode)
        assert (answer["event"], answer["calls"]) == (EVENT, 1)


def test_a_disk_that_becomes_slow_only_makes_it_slower(machine, lambdas, recorded):
    machine.throttle_data(bytes_per_second=4 << 20, reads_per_second=150)
    try:
        for mode in ("faasnap", "lazy"):
            reply = http.request(machine.port, "POST", f"/system/snapshots/{recorded}/evict-cache")
            assert reply.status == 200, str(reply)
            assert restored(machine, lambdas, recorded, mode)["event"] == EVENT
    finally:
        machine.throttle_data()
    assert restored(machine, lambdas, recorded, "faasnap")["event"] == EVENT


def test_a_disk_that_cannot_be_read_costs_time_or_an_error_never_a_wrong_answer(machine, lambdas, recorded):
    for mode in ("faasnap", "reap", "lazy"):
        reply = http.request(machine.port, "POST", f"/system/snapshots/{recorded}/evict-cache")
        assert reply.status == 200, str(reply)
        machine.put_away()
        with machine.unreadable_data():
            reply = http.request(
                machine.port, "POST", f"/2015-03-31/functions/{recorded}/invocations", EVENT,
                timeout=120, headers={"X-Mote-Restore-Mode": mode},
            )
            # The snapshot is given up; a boot may find what it needs in memory.
            assert reply.headers.get("x-mote-served-by") != "restore", str(reply)
            if reply.status == 200:
                assert reply.json["event"] == EVENT
            else:
                assert reply.status in (500, 502, 503) and reply.json["Message"], str(reply)
            assert http.request(machine.port, "GET", "/system/status", timeout=30).status == 200
        # It is made again, and from then on everything is as it was.
        assert invoke(lambdas, recorded, EVENT).json["event"] == EVENT
        reply = http.request(machine.port, "POST", f"/system/snapshots/{recorded}/record", EVENT, timeout=120)
        assert reply.status == 200, str(reply)
        assert restored(machine, lambdas, recorded, mode)["event"] == EVENT


def test_calls_go_on_while_the_snapshot_is_replaced(machine, lambdas, recorded):
    """Who began with the old one goes on with it, who comes later gets the new one."""
    failed, over = [], threading.Event()

    def call():
        own = client.lambda_client(machine.port)
        try:
            while not over.is_set():
                answer = invoke(own, recorded, EVENT)
                if answer.error is not None or answer.json["event"] != EVENT:
                    failed.append(str(answer))
                machine.put_away()
        except Exception as error:  # noqa: BLE001 - whatever it was, the test has to tell
            failed.append(repr(error))
        finally:
            own.close()

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            reply = http.request(machine.port, "POST", f"/system/snapshots/{recorded}/record", EVENT, timeout=180)
            # Others may have used what it made, or made what it was to make.
            assert reply.status in (200, 500), str(reply)
    finally:
        over.set()
        for thread in threads:
            thread.join(180)
    assert not failed, failed
    machine.put_away()
    assert invoke(lambdas, recorded, EVENT).json["event"] == EVENT
