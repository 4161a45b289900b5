"""Updates over the API: a good one runs and stays, a bad one falls back by itself, half of one changes nothing."""

import os
import random
import threading
import time

import pytest

from mote import blocklog, client, disk, http, packages, update
from mote.appliance import Appliance
from mote.disk import READY_LIMIT_S, booted
from mote.waiting import until

# Three boots, and what the bad system is given.
FALL_BACK_LIMIT_S = 600
MIB = disk.MIB
# More of them before a release: MOTE_POWER_CUTS=50.
CUTS = int(os.environ.get("MOTE_POWER_CUTS", "2"))
TORN = int(os.environ.get("MOTE_TORN_WRITES", "2"))
# About what an update takes, with the start into the new system.
CYCLE_S = 40
# What a bad system gets instead of two minutes.
SHORT = "mote.update.trial_s=12"


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    return update.Signer(tmp_path_factory.mktemp("updates"))


@pytest.fixture(scope="module")
def image(signer):
    return disk.make(signer.folder / "mote.img", signer.config())


@pytest.fixture(scope="module")
def copy(image, signer):
    made = disk.Disk(image, signer.folder / "disk.img")
    yield made
    made.path.unlink()


@pytest.fixture(scope="module")
def machine(copy):
    """One machine that lives through all of it. What a bad system says on its console is its own matter."""
    with Appliance(disk=copy.path) as made:
        made.start()
        made.wait_ready(READY_LIMIT_S)
        assert until(lambda: phase(made) == "settled", 60), update.state(made)
        yield made


def phase(machine):
    return (update.state(machine) or {}).get("phase")


def runs(machine, slot: str, limit_s: float = READY_LIMIT_S) -> dict:
    """Waits until a slot runs and is the good one; gives the state."""

    def good():
        state = update.state(machine)
        return state if state and state["phase"] == "settled" and state["running"]["slot"] == slot else None

    state = until(good, limit_s)
    assert state, f"{update.state(machine)}\n{machine.tail()}"
    machine.wait_ready(READY_LIMIT_S + limit_s)
    return state


def test_a_good_one_stays_and_can_be_gone_back_from(machine, copy, signer):
    lambdas = client.lambda_client(machine.port)
    client.create(lambdas, "stays", packages.answering("stays"))
    before = update.state(machine)
    assert before["possible"] and before["slots"]["b"]["state"] == "empty", before
    old = before["running"]["version"]

    reply = update.send(machine, signer.update("9.1.0"))
    assert reply.status == 202, str(reply)
    assert (reply.json["version"], reply.json["slot"], reply.json["state"]) == ("9.1.0", "b", "rebooting")
    after = runs(machine, "b")
    assert (after["running"]["version"], after["slots"]["a"]["state"]) == ("9.1.0", "good"), after
    answer = client.invoke(lambdas, "stays", {})
    assert answer.error is None and answer.json["code"] == "stays", str(answer)

    # Power may go: what is good stays so.
    machine.cut_power()
    machine.start()
    runs(machine, "b")
    reply = machine.post("/system/update/rollback")
    assert reply.status == 202 and reply.json["version"] == old, str(reply)
    back = runs(machine, "a")
    assert back["running"]["version"] == old and back["failed"] == ["9.1.0"], back
    refused = update.send(machine, signer.update("9.1.0"))
    assert refused.status == 409 and "force=true" in refused.text, str(refused)


BAD = {
    # The kernel finds no init.
    "panics": ("9.2.0", ["rdinit=/nothing"], 3),
    # An address that is nobody's here: hostd ends at once, again and again.
    "exits": ("9.2.1", [SHORT, "mote.api.listen=203.0.113.1:8080"], 2),
    "is-not-ready": ("9.2.2", [SHORT, "mote.paths.data=/proc/nowhere"], 2),
    "has-no-network": ("9.2.3", [SHORT, "mote.interface=nothing0", "mote.address=192.0.2.7/24"], 2),
}


def falls_back(machine, copy, version, file, boots):
    """It was started, at most so often, and is not tried again; then the one before runs."""
    before = len(booted(machine.consoles()))
    reply = update.send(machine, file)
    assert reply.status == 202, str(reply)
    assert until(lambda: version in copy.variables()["mote_failed"].split(","), FALL_BACK_LIMIT_S), machine.tail()
    state = runs(machine, "a")
    assert (state["slots"]["b"]["state"], state["trial"]) == ("failed", None) and version in state["failed"], state
    assert 2 <= len(booted(machine.consoles())) - before <= boots <= 3, machine.tail()
    again = update.send(machine, file)
    assert again.status == 409 and "failed before" in again.text, str(again)


@pytest.mark.parametrize("how", list(BAD))
def test_a_bad_one_falls_back_by_itself(machine, copy, signer, how):
    version, words, boots = BAD[how]
    falls_back(machine, copy, version, signer.update(version, *words), boots)


def test_one_that_hangs_falls_back_by_itself(machine, copy, signer, tmp_path):
    hangs = "fn main() { loop { std::thread::park(); } }"
    root = update.other_system(tmp_path, hangs)
    falls_back(machine, copy, "9.2.4", signer.update("9.2.4", SHORT, root=root), 2)


def test_what_is_not_to_be_trusted_or_not_whole_changes_nothing(machine, copy, signer, tmp_path):
    good = signer.update("9.3.0").read_bytes()
    foreign = update.Signer(tmp_path, "foreign").update("9.3.0").read_bytes()
    before, boots = copy.variables(), booted(machine.consoles())
    unsigned = good[:16] + bytes(72) + good[88:]
    # Refused at their begin: the rest is not sent.
    for file, status, word in [
        (foreign[:100_000], 403, "not trusted"),
        (unsigned[:100_000], 403, "not signed"),
        (good[:90] + bytes([good[90] ^ 1]) + good[91:100_000], 403, "signature"),
        (b"no update at all" * 100, 400, "Not an update file"),
    ]:
        reply = machine.post("/system/update", file)
        assert reply.status == status and word in reply.text, str(reply)
        assert copy.variables() == before
    middle = len(good) // 2
    damaged = good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
    for file, word in [(good[:-1], "ends too early"), (good[:middle], "ends too early"), (damaged, "damaged")]:
        reply = machine.post("/system/update", file)
        assert reply.status == 400 and word in reply.text, str(reply)
        state = update.state(machine)
        assert (state["phase"], state["slots"]["b"]["state"]) == ("settled", "empty"), state
    assert booted(machine.consoles()) == boots
    # Nothing of it is in the way of a whole one.
    reply = machine.post("/system/update?reboot=later", good, timeout=300)
    assert reply.status == 202 and reply.json["state"] == "pending", str(reply)
    off = http.request(machine.port, "DELETE", "/system/update")
    assert off.status == 200 and phase(machine) == "settled", str(off)


def test_a_client_that_hangs_up_leaves_the_slot_empty(machine, signer):
    file = signer.update("9.3.1")
    connection = update.send_part(machine, file, 20 * MIB)
    assert until(lambda: (update.state(machine)["update"] or {}).get("written_bytes", 0) > MIB, 60)
    busy = machine.post("/system/update", b"x")
    assert busy.status == 409 and "being written" in busy.text, str(busy)
    connection.close()
    assert until(lambda: update.state(machine)["update"]["state"] == "failed", 60), update.state(machine)
    assert update.state(machine)["slots"]["b"]["state"] == "empty"
    assert update.send(machine, file, "?reboot=later").status == 202


def test_power_cuts_at_any_moment_of_an_update(machine, copy, signer):
    """From its first byte to where the new system is the good one: the machine always comes up with one that works, what
    was kept is there, and one cut makes no update fail."""
    chance = random.Random(7)
    lambdas = client.lambda_client(machine.port)
    client.create(lambdas, "cuts", packages.answering("cuts"))
    files = {version: signer.update(version) for version in ("9.4.0", "9.4.1")}
    came, failed = set(), update.state(machine)["failed"]
    for _ in range(CUTS):
        running = update.state(machine)["running"]["version"]
        version = "9.4.1" if running == "9.4.0" else "9.4.0"
        sender = threading.Thread(target=quietly, args=(update.send, machine, files[version]))
        sender.start()
        time.sleep(chance.uniform(0, CYCLE_S))
        machine.cut_power()
        sender.join(300)
        machine.start()
        machine.wait_ready(READY_LIMIT_S)
        assert until(lambda: phase(machine) == "settled", READY_LIMIT_S), f"{update.state(machine)}\n{machine.tail()}"
        state = update.state(machine)
        assert state["failed"] == failed and state["running"]["version"] in (running, version), state
        came.add(state["running"]["version"])
        answer = client.invoke(lambdas, "cuts", {})
        assert answer.error is None and answer.json["code"] == "cuts", str(answer)
    print(f"{CUTS} power cuts, ran afterwards: {sorted(came)}")


def test_whatever_is_left_of_writes_that_were_torn_boots(image, signer, tmp_path):
    """Every write of a whole update is noted; then the disk is made what it may be if the power goes at one moment of it."""
    log_file, scratch = tmp_path / "writes.log", tmp_path / "scratch.img"
    copy, before = disk.Disk(image, tmp_path / "disk.img"), tmp_path / "before.img"
    with Appliance(disk=copy.path) as machine:
        machine.start()
        machine.wait_ready(READY_LIMIT_S)
        client.create(client.lambda_client(machine.port), "stays", packages.answering("stays"))
        machine.cut_power()
    # The block has to be told that the slot is empty.
    copy.set(mote_b="failed 9.4.9", mote_failed="9.4.9")
    disk.clone(copy.path, before)
    with Appliance(disk=copy.path, log=log_file) as machine:
        machine.start()
        machine.wait_ready(READY_LIMIT_S)
        assert until(lambda: phase(machine) == "settled", 60)
        assert update.send(machine, signer.update("9.5.0")).status == 202
        runs(machine, "b")
        machine.cut_power()
    log = blocklog.Log(log_file)
    moments = order_of_writes(copy, log)

    chance = random.Random(11)
    # When the slot is half written, the state is being written, the new system comes up, and any other.
    picked = sorted([chance.choice(moments[what]) for what in moments][:TORN])
    picked += chance.sample(range(len(log.entries)), max(TORN - len(picked), 0))
    done = 0
    for moment in sorted(picked):
        # What is durable comes step by step, what is not is on a copy.
        log.replay(before, log.entries[done : log.durable(moment)])
        done = log.durable(moment)
        disk.clone(before, scratch)
        log.replay(scratch, log.entries[done:moment], chance)
        with Appliance(disk=scratch) as machine:
            machine.start()
            machine.wait_ready(READY_LIMIT_S)
            assert until(lambda: phase(machine) == "settled", READY_LIMIT_S), machine.tail()
            state = update.state(machine)
            answer = client.invoke(client.lambda_client(machine.port), "stays", {})
            assert answer.error is None and answer.json["code"] == "stays", str(answer)
            print(f"write {moment} of {len(log.entries)}: runs {state['running']['slot']}, {state['slots']}")
            assert state["failed"] == ["9.4.9"], state
        scratch.unlink()
    for path in (before, copy.path, log_file):
        path.unlink()


def order_of_writes(copy, log) -> dict:
    """What holds for every moment, by the order of the writes; gives moments worth trying."""
    running, other = copy.parts["system-a"], copy.parts["system-b"]
    block = (copy.parts["esp"][0] + disk.ENVIRONMENT, disk.BLOCK)
    assert not any(entry.touches(*running) for entry in log.entries), "The slot that runs was written to"
    slot = [i for i, entry in enumerate(log.entries) if entry.touches(*other)]
    state = [i for i, entry in enumerate(log.entries) if entry.touches(*block)]
    # One sector is written as a whole or not at all.
    assert all(log.entries[i].size == blocklog.SECTOR for i in state)
    # "empty", the slot, "new": each is durable before the next begins. And after that GRUB counts a try, init says "good".
    first, last = slot[0], slot[-1]
    assert [i for i in state if first < i < last] == []
    emptied, made = max(i for i in state if i < first), min(i for i in state if i > last)
    assert any(entry.is_barrier for entry in log.entries[emptied:first])
    assert any(entry.is_barrier for entry in log.entries[last:made])
    assert len([i for i in state if i > made]) >= 2, [log.entries[i] for i in state]
    return {"slot": slot, "state": [i + 1 for i in state if i >= emptied], "after": list(range(made + 1, len(log.entries)))}


def quietly(what, *arguments):
    try:
        what(*arguments)
    except Exception:  # noqa: BLE001 - the power is cut meanwhile
        pass
