"""Cold, restored, warm: which way a call is served, that it says so, and what each way means for a function."""

import http.client as plain

import pytest

from mote import client, http, packages
from mote.client import invoke

# Phases that must be there, by the way a call is served; others may be as well.
PHASES = {
    "cold": {"init", "snapshot", "invoke"},
    "restore": {"restore", "connect", "resume", "invoke"},
    "warm": {"invoke"},
}


def test_cold_then_warm_then_restored(box, lambdas, deploy):
    """Without a pause anywhere: a snapshot still being stored is waited for."""
    name = deploy(packages.function("probe"))
    calls = []
    for way in ("cold", "put away", "restore", "warm", "warm", "put away", "restore"):
        if way == "put away":
            box.put_away()
            continue
        answer = invoke(lambdas, name, {"op": "echo"})
        assert answer.served_by == way
        calls.append(answer.json["calls"])
    # A warm sandbox goes on where it was; a restored one starts where the snapshot was taken: before any call.
    assert calls == [1, 1, 2, 3, 1]


@pytest.mark.parametrize("way", ["cold", "restore", "warm"])
def test_the_phases_add_up_to_what_the_client_saw(box, lambdas, probe, deploy, way):
    name = deploy(packages.function("probe")) if way == "cold" else probe
    if way == "warm":
        invoke(lambdas, name, {"op": "echo"})
    else:
        box.put_away()
    answer = invoke(lambdas, name, {"op": "sleep", "seconds": 0.5})
    assert answer.served_by == way
    assert PHASES[way] <= set(answer.phases), answer.headers.get("x-mote-phases")
    assert answer.phases["invoke"] >= 500
    total = sum(answer.phases.values())
    assert 500 <= total <= answer.ms
    # What no phase accounts for is the way through HTTP: little, even emulated.
    assert answer.ms - total < 1500, f"{answer.ms} ms seen, {answer.phases}"


def test_the_wish_for_a_way_is_heeded(box, probe):
    path = f"/2015-03-31/functions/{probe}/invocations"
    for wish in ("warm", "cold", "restore", "warm"):
        reply = http.request(box.port, "POST", path, {"op": "echo"}, headers={"X-Mote-Start": wish})
        assert (reply.status, reply.headers["x-mote-served-by"]) == (200, wish), str(reply)
    reply = http.request(box.port, "POST", path, {"op": "echo"}, headers={"X-Mote-Start": "lukewarm"})
    assert reply.status == 400 and "lukewarm" in reply.text, str(reply)
    box.put_away()


def test_restored_is_the_state_at_the_snapshot(box, lambdas, probe):
    restored = []
    for _ in range(2):
        box.put_away()
        restored.append(invoke(lambdas, probe, {"op": "identity"}).json)
    assert restored[0]["shared"] == restored[1]["shared"]
    assert restored[0]["calls"] == restored[1]["calls"] == 1


def test_nothing_of_one_sandbox_is_in_another(box, lambdas, probe):
    box.put_away()
    assert invoke(lambdas, probe, {"op": "left_over"}).json == {"before": False, "calls": 1}
    assert invoke(lambdas, probe, {"op": "left_over"}).json == {"before": True, "calls": 2}
    box.put_away()
    assert invoke(lambdas, probe, {"op": "left_over"}).json == {"before": False, "calls": 1}


def test_putting_away_counts_what_it_puts_away(box, lambdas, probe):
    box.put_away()
    assert box.get("/system/sandboxes").json == []
    invoke(lambdas, probe, {"op": "echo"})
    listed = box.get("/system/sandboxes").json
    assert len(listed) == 1 and probe in str(listed[0]), listed
    reply = http.request(box.port, "DELETE", "/system/sandboxes")
    assert reply.status == 200 and 1 in reply.json.values(), str(reply)
    assert box.get("/system/sandboxes").json == []


def test_calls_that_arrive_together_at_a_new_function_share_one_boot(box, deploy):
    name = deploy(packages.answering("together"))
    answers = client.at_once(box.port, 3, lambda own, number: invoke(own, name, {}))
    assert [answer.json["code"] for answer in answers] == ["together"] * 3
    assert [answer.served_by for answer in answers].count("cold") == 1
    box.put_away()


def test_keep_alive_connections_carry_many_calls(box, probe):
    connection = plain.HTTPConnection("127.0.0.1", box.port, timeout=60)
    try:
        for number in range(5):
            connection.request("POST", f"/2015-03-31/functions/{probe}/invocations", body=f'{{"n": {number}}}')
            answer = connection.getresponse()
            assert answer.status == 200 and f'"n": {number}'.encode() in answer.read()
    finally:
        connection.close()


def test_functions_share_what_they_have_in_common(box, lambdas, deploy):
    """The first of its runtime and size makes the base; what is stored of each function is what differs."""
    names = [deploy(packages.function("probe")) for _ in range(2)]
    cold = [invoke(lambdas, name, {"op": "identity"}) for name in names]
    assert [answer.served_by for answer in cold] == ["cold", "cold"]
    unique = [answer.json["unique"] for answer in cold]
    assert not [key for key in unique[0] if unique[0][key] == unique[1][key]], unique
    # From the base: no kernel was booted for the second.
    assert "boot" not in cold[1].phases and {"base", "restore", "init"} <= set(cold[1].phases), cold[1].phases
    box.put_away()
    assert [invoke(lambdas, name, {"op": "echo"}).served_by for name in names] == ["restore", "restore"]
    listed = box.get("/system/snapshots").json
    bases = {base["name"]: base for base in listed["bases"]}
    for snapshot in listed["snapshots"]:
        if snapshot["function"] in names:
            base = bases[snapshot["base"]["name"]]
            assert snapshot["base"]["dir"] == base["dir"]
            assert snapshot["stored_bytes"] < base["stored_bytes"] / 2, (snapshot, base)
