"""More calls than the machine can serve: what it serves then, what it says to the others, and what is left of it after."""

import json
import os
import time
from collections import Counter

import pytest

from mote import census, client, http, packages
from mote.client import invoke
from mote.load import capacity, percentile, shoot

# Offered load as a multiple of what the machine can serve, and for how long: two minutes show no more than one does.
TIMES = 5
SECONDS = int(os.environ.get("MOTE_OVERLOAD_S", "60"))
# What is to be refused is refused within this.
REFUSED_MS = 50
# Afterwards everything is as before within this.
CALM_S = 10
MEMORY_MB = 128
# Of one call: nearly all of it is sleep, so that capacity is a matter of sandboxes, not of the emulated processor.
CALL_S = 1.0

SLEEPER = f"""
import time

def handler(event, context):
    print("ran", event["id"])
    time.sleep({CALL_S})
    return {{"id": event["id"]}}
"""


@pytest.fixture(scope="module")
def machine(module_box):
    made = module_box(
        memory_mb=1536,
        options={"log.function_lines": 100_000, "sandbox.max_sandboxes": 4, "sandbox.idle_timeout_s": 900},
    )
    made.boot()
    return made


@pytest.fixture(scope="module")
def lambdas(machine):
    return client.lambda_client(machine.port)


def test_overload_costs_the_excess_only(machine, lambdas):
    client.create(lambdas, "sleeper", packages.source(SLEEPER), MemorySize=MEMORY_MB, Timeout=30)
    client.create(lambdas, "other", packages.answering("other"), MemorySize=MEMORY_MB)
    # Both have their snapshots, and as many sandboxes as there may be are up.
    invoke(lambdas, "other", {})
    sandboxes = 4
    client.at_once(machine.port, sandboxes, lambda own, number: invoke(own, "sleeper", {"id": f"first-{number}"}))
    machine.put_away()
    client.at_once(machine.port, sandboxes, lambda own, number: invoke(own, "sleeper", {"id": f"second-{number}"}))
    client.hang_up()
    before = census.take(machine)
    calm = [call_once(lambdas, f"calm-{number}").ms for number in range(6)][1:]
    capacity(machine.port, "sleeper", sandboxes, 5, lambda number: {"id": f"warm-up-{number}"})
    most = capacity(machine.port, "sleeper", sandboxes, 20, lambda number: {"id": f"capacity-{number}"})

    count = int(TIMES * most * SECONDS)
    times = [number / (TIMES * most) for number in range(count)]
    shots = shoot(machine.port, "sleeper", times, lambda number: {"id": f"load-{number}"})
    ended = time.monotonic()

    # Everybody was answered, by the right answer or a refusal.
    served = [shot for shot in shots if shot.status == 200]
    refused = [shot for shot in shots if shot.status == 429]
    assert len(served) + len(refused) == count, Counter((shot.status, shot.body[:120]) for shot in shots)
    assert all(json.loads(shot.body) == {"id": f"load-{shot.number}"} for shot in served)
    # After the load, too, everything is answered as before.
    after = call_until_calm(lambdas, ended, calm)
    goodput = len([shot for shot in served if shot.done_at <= SECONDS]) / SECONDS
    figures = {
        "capacity_per_s": round(most, 2),
        "offered": count,
        "served": len(served),
        "goodput_of_capacity": round(goodput / most, 3),
        "refused_ms": {part: round(percentile([shot.ms for shot in refused], part), 1) for part in (0.5, 0.9, 0.95, 0.99, 0.999, 1)},
        "served_ms": {part: round(percentile([shot.ms for shot in served], part), 1) for part in (0.5, 0.99, 1)},
        "calm_after_s": round(after, 1),
    }
    print(json.dumps(figures))
    # Each that was answered ran once, and none that was refused did.
    ran = Counter(line.split()[1] for line in log(machine, "sleeper") if line.startswith("ran load-"))
    assert ran == Counter(f"load-{shot.number}" for shot in served), figures
    assert goodput >= 0.9 * most, figures
    assert figures["refused_ms"][0.99] <= REFUSED_MS, figures
    assert all(int(shot.retry_after) >= 1 for shot in refused), figures
    assert after <= CALM_S, figures
    assert machine.status()["census"]["oom_kills"] == 0, figures
    machine.put_away()
    assert invoke(lambdas, "other", {}).json["code"] == "other"
    client.hang_up()
    machine.put_away()
    census.assert_unchanged(machine, before)


def call_once(lambdas, name):
    answer = invoke(lambdas, "sleeper", {"id": name})
    assert answer.json == {"id": name}, str(answer)
    return answer


def call_until_calm(lambdas, since, calm):
    """Seconds since then until a call is warm and takes no longer than before."""
    while True:
        answer = call_once(lambdas, f"after-{time.monotonic()}")
        took = time.monotonic() - since
        if answer.served_by == "warm" and answer.ms <= 1.5 * max(calm) or took > 10 * CALM_S:
            return took


def log(machine, name):
    reply = http.request(machine.port, "GET", f"/system/logs/{name}?limit=10000")
    assert reply.status == 200, str(reply)
    return reply.json["lines"] if isinstance(reply.json, dict) else reply.json
