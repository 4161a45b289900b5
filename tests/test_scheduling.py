"""Who is served when there is not enough for all, and what idle sandboxes leave to others."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mote import census, client, packages
from mote.client import create, invoke
from mote.waiting import until

IDLE_S = 20
RECLAIM_S = 1
# What the probe takes and lets go again, MB, and how much of it the machine must have back.
EATEN_MB = 96
BACK_MB = 75
TENANTS = "[{name='default',vni=1},{name='blue',vni=2,weight=3}]"


@pytest.fixture(scope="module")
def machine(module_box):
    made = module_box(
        memory_mb=1024,
        options={
            "sandbox.idle_timeout_s": IDLE_S, "sandbox.reclaim_s": RECLAIM_S, "scheduling.keep_alive": "fixed",
            "scheduling.headroom": 0.25, "network.tenants": TENANTS, "sandbox.queue_s": 60,
        },
    )
    made.boot()
    return made


@pytest.fixture(scope="module")
def lambdas(machine):
    made = client.lambda_client(machine.port)
    create(made, "probe", packages.function("probe"), MemorySize=256, Timeout=60)
    create(made, "blue", packages.answering("blue"), Tags={"mote:tenant": "blue"})
    for name in ("probe", "blue"):
        invoke(made, name, {})
        machine.put_away()
        invoke(made, name, {})
    machine.put_away()
    return made


def available_mb(machine):
    return machine.status()["census"]["memory_available_kb"] / 1024


def booked_less(machine, memory_mb):
    (sandbox,) = machine.get("/system/sandboxes").json
    return sandbox if sandbox["memory_mb"] <= memory_mb else None


def test_an_idle_sandbox_gives_back_memory_and_has_it_when_it_is_called(machine, lambdas):
    assert invoke(lambdas, "probe", {"op": "eat", "megabytes": EATEN_MB}).error is None
    full = available_mb(machine)
    assert invoke(lambdas, "probe", {"op": "let_go"}).json["whole"]
    (before,) = machine.get("/system/sandboxes").json
    gained = until(lambda: (more := available_mb(machine) - full) >= BACK_MB and more, IDLE_S - 2)
    assert gained, f"{available_mb(machine) - full} MB of {EATEN_MB} came back"
    # It is booked with what it holds now, not with what it may come to hold.
    after = until(lambda: booked_less(machine, before["memory_mb"] - BACK_MB), IDLE_S - 2)
    assert after and after["pid"] == before["pid"], (before, after, machine.get("/system/sandboxes").json)
    # All of it is the guest's again.
    again = invoke(lambdas, "probe", {"op": "eat", "megabytes": EATEN_MB})
    assert (again.error, again.served_by) == (None, "warm"), str(again)
    whole = invoke(lambdas, "probe", {"op": "let_go"}).json
    assert whole["whole"], whole


def test_idle_sandboxes_end(machine, lambdas):
    before = census.take(machine)
    invoke(lambdas, "probe", {"op": "echo"})
    assert len(machine.get("/system/sandboxes").json) == 1
    assert until(lambda: machine.get("/system/sandboxes").json == [], IDLE_S + 15)
    census.assert_unchanged(machine, before)


def test_a_burst_starts_what_fits_and_the_others_wait(machine, lambdas):
    """More calls of a function without sandboxes than there is memory for: all are answered, none beyond the memory."""
    capacity = machine.status()["sandboxes"]["capacity_mb"]
    fits = capacity // (256 + 8)
    calls = 3 * fits
    with ThreadPoolExecutor(1) as watcher:
        seen = watcher.submit(watch, machine, calls)
        answers = client.at_once(
            machine.port, calls, lambda own, number: invoke(own, "probe", {"op": "sleep", "seconds": 1.5, "tag": number})
        )
        most, alive = seen.result()
    assert [answer.json["tag"] for answer in answers] == list(range(calls))
    ways = [answer.served_by for answer in answers]
    assert 1 <= ways.count("restore") <= fits and ways.count("warm") >= calls - fits, ways
    assert most <= capacity and alive <= fits, (most, alive, capacity)
    machine.put_away()


def watch(machine, calls):
    """Most memory booked and most sandboxes alive until so many calls more were decided on."""
    most = alive = 0
    decided = machine.status()["sandboxes"]["decided"]["arrived"]
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        now = machine.status()["sandboxes"]
        most, alive = max(most, now["memory_mb"]), max(alive, now["alive"])
        if now["decided"]["arrived"] >= decided + calls and not now["busy"] + now["starting"] + now["waiting"]:
            break
        time.sleep(0.1)
    return most, alive


def test_a_slow_function_does_not_hold_back_another_tenant(machine, lambdas):
    """One tenant would fill the machine for long; another's call does not wait for that."""
    capacity = machine.status()["sandboxes"]["capacity_mb"]
    slow = capacity // (256 + 8) + 1
    seconds = 12
    with ThreadPoolExecutor(1) as pool:
        filling = pool.submit(
            client.at_once, machine.port, slow,
            lambda own, number: invoke(own, "probe", {"op": "sleep", "seconds": seconds, "tag": number}),
        )
        assert until(lambda: machine.status()["sandboxes"]["waiting"], 60)
        answer = invoke(lambdas, "blue", {})
        assert answer.json["code"] == "blue" and answer.ms < seconds * 1000 * 0.75, str(answer)
        assert machine.status()["sandboxes"]["waiting"], "the slow function's calls wait no more"
        assert len(filling.result()) == slow
    machine.put_away()
