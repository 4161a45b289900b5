"""Ten power cuts at random moments of a deploy loop: what was acknowledged is there and answers, nothing is half there."""

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from mote import client, packages
from mote.client import invoke

CUTS = 10
WORKERS = 2
NAMES_PER_WORKER = 2
# The loops run this long before the cut, so that it falls into a first or a later operation.
SECONDS = (0.05, 2.0)


class State:
    """What a function should be: code and configuration by their marks; None where there is none."""

    def __init__(self, code: str, value: str, timeout: int):
        self.code, self.value, self.timeout = code, value, timeout

    def __eq__(self, other):
        return isinstance(other, State) and vars(self) == vars(other)

    def __repr__(self):
        return f"({self.code}, {self.value}, {self.timeout} s)"


class Worker:
    """Deploys, changes and deletes functions of its own names until told to stop or cut off."""

    def __init__(self, number: int, port: int, seed: int):
        self.random = random.Random(seed)
        self.lambdas = client.lambda_client(port, read_timeout=30)
        self.acknowledged = {f"cut-{number}-{n}": None for n in range(NAMES_PER_WORKER)}
        self.in_flight = None
        self.operations = 0
        self.refusals: list = []
        self.stop = threading.Event()

    def run(self):
        while not self.stop.is_set():
            name = self.random.choice(list(self.acknowledged))
            wanted, act = self.plan(self.lambdas, name)
            self.in_flight = (name, self.acknowledged[name], wanted)
            try:
                act()
            except ClientError as error:
                self.refusals.append(str(error))
                return
            except (BotoCoreError, OSError):
                return  # the power is gone; the operation stays in flight
            self.acknowledged[name] = wanted
            self.in_flight = None
            self.operations += 1

    def plan(self, lambdas, name):
        """A random operation that makes sense: the state it leads to, and the call."""
        state = self.acknowledged[name]
        mark = f"{self.random.getrandbits(40):010x}"
        if state is None:
            wanted = State(mark, mark, 30)
            # Packages of different sizes: the cut finds different amounts unwritten.
            padding = self.random.randbytes(self.random.choice([0, 1000, 300_000]))
            code = packages.zip_of({"handler.py": source(mark), "padding.bin": padding})
            return wanted, lambda: client.create(
                lambdas, name, code, Timeout=30, Environment={"Variables": {"VALUE": mark}}
            )
        kind = self.random.choice(["code", "configuration", "delete"])
        if kind == "code":
            code = packages.zip_of({"handler.py": source(mark)})
            return State(mark, state.value, state.timeout), lambda: lambdas.update_function_code(
                FunctionName=name, ZipFile=code
            )
        if kind == "configuration":
            timeout = self.random.randint(20, 60)
            return State(state.code, mark, timeout), lambda: lambdas.update_function_configuration(
                FunctionName=name, Timeout=timeout, Environment={"Variables": {"VALUE": mark}}
            )
        return None, lambda: lambdas.delete_function(FunctionName=name)


def source(mark: str) -> str:
    return f"import os\n\ndef handler(event, context):\n    return [{mark!r}, os.environ['VALUE']]\n"


def found(lambdas, name):
    """What the appliance says the function is: shown, and answering. Half there is a failure."""
    listed = [f["FunctionName"] for f in lambdas.list_functions(MaxItems=50)["Functions"]]
    try:
        shown = lambdas.get_function(FunctionName=name)["Configuration"]
    except lambdas.exceptions.ResourceNotFoundException:
        assert name not in listed, f"{name} is listed but not there"
        with pytest.raises(lambdas.exceptions.ResourceNotFoundException):
            invoke(lambdas, name, {})
        return None
    assert name in listed and shown["State"] == "Active", shown
    answer = invoke(lambdas, name, {})
    assert answer.error is None, f"{name} is there but does not answer: {answer}"
    code, value = answer.json
    assert shown["Environment"]["Variables"] == {"VALUE": value}, (shown, value)
    return State(code, value, shown["Timeout"])


def verify(lambdas, worker, where):
    """Compares what is there with what was acknowledged; how many functions answer, and how many operations were cut."""
    answered = interrupted = 0
    for name, acknowledged in worker.acknowledged.items():
        allowed = [acknowledged]
        if worker.in_flight and worker.in_flight[0] == name:
            interrupted += 1
            allowed.append(worker.in_flight[2])
        state = found(lambdas, name)
        assert state in allowed, f"{where}: {name} is {state}; acknowledged, or cut off: {allowed}"
        answered += state is not None
        worker.acknowledged[name] = state
    worker.in_flight = None
    return answered, interrupted


@pytest.mark.powercut
def test_acknowledged_functions_survive_power_cuts(own_box):
    seed = int(os.environ.get("MOTE_SEED") or random.SystemRandom().getrandbits(32))
    print(f"MOTE_SEED={seed}")
    dice = random.Random(seed)
    box = own_box()
    box.boot()
    workers = [Worker(number, box.port, dice.getrandbits(32)) for number in range(WORKERS)]
    lambdas = client.lambda_client(box.port)
    answered = interrupted = 0
    for cut in range(CUTS):
        where = f"MOTE_SEED={seed} cut {cut}"
        before = sum(worker.operations for worker in workers)
        for worker in workers:
            worker.stop.clear()
        threads = [threading.Thread(target=worker.run) for worker in workers]
        for thread in threads:
            thread.start()
        moment = dice.uniform(*SECONDS)
        time.sleep(moment)
        box.cut_power()
        for worker in workers:
            worker.stop.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        refusals = [refusal for worker in workers for refusal in worker.refusals]
        assert not refusals, refusals
        client.hang_up()

        ready_ms = box.boot()
        # Before any call: those prepare snapshots.
        census = box.status()["census"]
        assert census["staged_files"] == 0, f"{where}: {census}"
        # Side by side, as the machine has several processors: booting the functions is most of this test's time.
        with ThreadPoolExecutor(WORKERS) as pool:
            for some_answered, some_cut in pool.map(lambda worker: verify(lambdas, worker, where), workers):
                answered += some_answered
                interrupted += some_cut
        done = sum(worker.operations for worker in workers) - before
        print(f"cut {cut}: after {moment:.2f} s and {done} operations, ready again in {ready_ms:.0f} ms")
    # Else the test would have shown nothing.
    total = sum(worker.operations for worker in workers)
    assert total >= 3 * CUTS and answered >= CUTS and interrupted >= CUTS // 2, (total, answered, interrupted)
