#!/usr/bin/env python3
"""Shows what Mote does: boots it, deploys two functions, calls them cold, from a snapshot and warm, cuts the power.

Every answer is checked. The last line is one JSON object; the status is not 0 when anything was wrong.
"""

import argparse
import json
import math
import signal
import statistics
import sys
import time
from dataclasses import dataclass, field

from mote import airports, client, packages
from mote.appliance import Appliance, BootError

REPEATS = 5
STAGES = ("cold", "snapshot", "warm", "after power cut")
SERVED_BY = {"cold": "cold", "snapshot": "restore", "warm": "warm", "after power cut": "restore"}
KEYS = {"cold": "cold_ms", "snapshot": "snapshot_ms", "warm": "warm_ms", "after power cut": "after_powercut_ms"}


class Wrong(Exception):
    """An answer was not what it should be."""


@dataclass
class Function:
    """One of the demo's functions, how it is deployed, called and checked."""

    name: str
    example: str
    memory_mb: int
    event: dict
    check: object
    times: dict = field(default_factory=dict)
    phases: dict = field(default_factory=dict)


def check_hello(answer: client.Answer) -> None:
    value = answer.json
    if value.get("message") != "Hello, Ada!" or value.get("function") != "hello":
        raise Wrong(f"hello answered {value}")
    if value.get("request_id") != answer.headers.get("x-amzn-requestid"):
        raise Wrong(f"hello saw request {value.get('request_id')}, not {answer.headers.get('x-amzn-requestid')}")


def check_report(answer: client.Answer) -> None:
    try:
        airports.check(answer.json, sort="city")
    except AssertionError as error:
        raise Wrong(f"report showed something else than its data: {error}") from None


def functions() -> list:
    return [
        # Of one size, so that both start from one base: the first call makes it.
        Function("hello", "hello-python", 256, {"name": "Ada"}, check_hello),
        Function("report", "report", 256, {"sort": "city"}, check_report),
    ]


class Demo:
    def __init__(self, quiet: bool, port: int | None):
        self.quiet = quiet
        self.box = Appliance(port=port)
        self.seen_requests: set = set()

    def say(self, text: str = "") -> None:
        if not self.quiet:
            print(text, flush=True)

    def call(self, lambdas, function: Function, stage: str) -> float:
        """One checked call; its milliseconds."""
        answer = client.invoke(lambdas, function.name, function.event)
        if answer.error or answer.status != 200:
            raise Wrong(f"{function.name} ({stage}) failed: {answer}")
        function.check(answer)
        if answer.served_by != SERVED_BY[stage]:
            raise Wrong(f"{function.name} ({stage}) was served by '{answer.served_by}', not '{SERVED_BY[stage]}'")
        request = answer.headers["x-amzn-requestid"]
        if request in self.seen_requests:
            raise Wrong(f"Request id {request} was given twice")
        self.seen_requests.add(request)
        function.times.setdefault(stage, []).append(answer.ms)
        function.phases[stage] = answer.phases
        return answer.ms

    def round(self, lambdas, function: Function, stage: str, times: int, put_away: bool) -> None:
        for _ in range(times):
            if put_away:
                self.box.put_away()
            self.call(lambdas, function, stage)
        self.say(f"  {function.name:8} {stage:16} {statistics.median(function.times[stage]):9.1f} ms")

    def run(self) -> dict:
        all_functions = functions()
        self.say("Packaging the examples")
        archives = {function.name: packages.example(function.example) for function in all_functions}

        self.say("Booting the appliance (emulated: no real machine is this slow)")
        ready_ms = self.box.boot()
        self.say(f"  ready after {ready_ms:.0f} ms on http://127.0.0.1:{self.box.port}")
        lambdas = client.lambda_client(self.box.port)

        self.say("Deploying with boto3")
        for function in all_functions:
            start = time.monotonic()
            client.create(
                lambdas, function.name, archives[function.name], MemorySize=function.memory_mb, Timeout=60,
                Description=f"examples/{function.example}",
            )
            self.say(f"  {function.name:8} {len(archives[function.name]):7} bytes in {elapsed(start):.0f} ms")

        self.say("Calling: first, from the snapshot that call made, and again while warm")
        for function in all_functions:
            self.round(lambdas, function, "cold", 1, put_away=False)
            self.round(lambdas, function, "snapshot", REPEATS, put_away=True)
            self.round(lambdas, function, "warm", REPEATS, put_away=False)

        self.say("Cutting the power, without warning, and booting again on the same disk")
        lambdas.close()
        self.box.cut_power()
        again_ms = self.box.boot()
        self.say(f"  ready after {again_ms:.0f} ms")
        lambdas = client.lambda_client(self.box.port)
        for function in all_functions:
            self.round(lambdas, function, "after power cut", 1, put_away=False)
        lambdas.close()

        figures = {"ready_ms": ready_ms}
        for stage, key in KEYS.items():
            figures[key] = geometric_mean([statistics.median(f.times[stage]) for f in all_functions])
        self.table(all_functions, figures)
        return {key: round(value, 1) for key, value in figures.items()}

    def table(self, all_functions: list, figures: dict) -> None:
        self.say()
        self.say("Milliseconds as the client saw them (snapshot, warm: median of 5)")
        self.say(f"  {'':16}" + "".join(f"{stage:>18}" for stage in STAGES))
        for function in all_functions:
            cells = "".join(f"{statistics.median(function.times[stage]):18.1f}" for stage in STAGES)
            self.say(f"  {function.name:16}{cells}")
        self.say(f"  {'geometric mean':16}" + "".join(f"{figures[KEYS[stage]]:18.1f}" for stage in STAGES))
        self.say()
        self.say("Where the time went inside the appliance (X-Mote-Phases of the last call, ms)")
        for function in all_functions:
            for stage in STAGES:
                parts = "  ".join(f"{name} {ms:.1f}" for name, ms in function.phases[stage].items())
                self.say(f"  {function.name:8} {stage:16} {parts}")
        self.say()
        self.say("The last line has the geometric means of both functions.")


def elapsed(start: float) -> float:
    return (time.monotonic() - start) * 1000


def geometric_mean(values: list) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json-only", action="store_true", help="print nothing but the last line")
    parser.add_argument("--keep", action="store_true", help="keep the folder with disk and console log")
    parser.add_argument("--port", type=int, help="port on this machine (default: a free one)")
    arguments = parser.parse_args()
    # Asked to stop by make or a shell: clean up as for Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))

    demo = Demo(arguments.json_only, arguments.port)
    try:
        outcome = {"ok": True, **demo.run()}
    except KeyboardInterrupt:
        outcome = {"ok": False, "error": "Interrupted"}
    except Exception as problem:  # noqa: BLE001 - whatever it is: said on the last line
        if not isinstance(problem, BootError):
            print(f"The console ends with\n{demo.box.tail()}", file=sys.stderr)
        print(f"{type(problem).__name__}: {problem}", file=sys.stderr)
        outcome = {"ok": False, "error": f"{type(problem).__name__}: {str(problem).splitlines()[0]}"}
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave anything behind
        demo.box.close(keep=arguments.keep)
    if arguments.keep:
        demo.say(f"Kept: {demo.box.folder}")
    print(json.dumps(outcome), flush=True)
    return 0 if outcome["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
