"""Two sandboxes of one snapshot share nothing that has to be unique, and both know what time it is."""

import time

import pytest

from mote import client
from mote.client import invoke

CLOCK_SLACK_S = 1.0
# The machine's own clock may be off by more: it has nobody to ask, and is itself emulated.
MACHINE_SLACK_S = 30.0


@pytest.fixture(scope="module")
def twins(box, lambdas, probe):
    """What two sandboxes of one snapshot say of themselves, and when they were asked."""
    invoke(lambdas, probe, {"op": "echo"})
    # The snapshot has some age: a clock that stood still with it would show.
    time.sleep(3)
    seen = []
    for _ in range(2):
        box.put_away()
        before = box.clock()
        answer = invoke(lambdas, probe, {"op": "identity"})
        assert answer.served_by == "restore"
        seen.append((before, answer.json, box.clock()))
    return seen


@pytest.mark.parametrize(
    "what",
    ["random.random", "random.getrandbits", "os.urandom", "uuid4", "secrets", "ssl", "log_stream", "hostname",
     "libc hostname", "request_id", "boot_id"],
)
def test_differs_between_two_restores_of_one_snapshot(twins, what):
    (_, one, _), (_, two, _) = twins
    assert one["calls"] == two["calls"] == 1, "both should be at the snapshot's first call"
    assert one["shared"] == two["shared"], "both should be of one snapshot"
    assert one["unique"][what] != two["unique"][what]


def test_the_machine_knows_what_time_it_is(box):
    assert abs(box.clock() - time.time()) <= MACHINE_SLACK_S


def test_the_clock_is_right_in_both(twins):
    for before, seen, after in twins:
        assert before - CLOCK_SLACK_S <= seen["time"] <= after + CLOCK_SLACK_S, (before, seen["time"], after)


def test_the_clock_stays_right_while_warm(box, lambdas, probe):
    invoke(lambdas, probe, {"op": "echo"})
    time.sleep(3)
    before = box.clock()
    answer = invoke(lambdas, probe, {"op": "identity"})
    assert answer.served_by == "warm"
    assert before - CLOCK_SLACK_S <= answer.json["time"] <= box.clock() + CLOCK_SLACK_S


def test_time_runs_as_fast_inside(lambdas, probe):
    first = invoke(lambdas, probe, {"op": "identity"}).json
    start = time.monotonic()
    invoke(lambdas, probe, {"op": "sleep", "seconds": 4})
    second = invoke(lambdas, probe, {"op": "identity"}).json
    outside = time.monotonic() - start
    for clock in ("time", "monotonic"):
        inside = second[clock] - first[clock]
        assert 4 <= inside <= outside + CLOCK_SLACK_S, (clock, inside, outside)


def test_sandboxes_alive_at_once_share_no_randomness(box, lambdas, probe):
    box.put_away()
    seen = client.at_once(box.port, 3, lambda own, number: invoke(own, probe, {"op": "draw_random"}))
    clones = [answer.json for answer in seen if answer.served_by == "restore"]
    assert len(clones) >= 2
    for what in clones[0]:
        values = [clone[what] for clone in clones]
        assert len(set(values)) == len(values), (what, values)
    box.put_away()
