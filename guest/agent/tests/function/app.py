"""A function that does what its event says."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import snapshot_restore_py

HOOKS = []


@snapshot_restore_py.register_before_snapshot
def before_snapshot():
    HOOKS.append("before")
    print("settling")


@snapshot_restore_py.register_after_restore
def after_restore():
    HOOKS.append("after")
    print("restored")


def describe(event, context):
    """What the function sees of its call."""
    return {
        "event": event,
        "hooks": HOOKS,
        "request_id": context.aws_request_id,
        "arn": context.invoked_function_arn,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "custom": context.client_context.custom if context.client_context else None,
        "trace": os.environ.get("_X_AMZN_TRACE_ID"),
        "folder": os.getcwd(),
        "stage": os.environ.get("STAGE"),
        "log_stream": context.log_stream_name,
    }


def seed(event, _context):
    """Makes the next number known, and tells it."""
    random.seed(event["with"])
    number = random.random()
    random.seed(event["with"])
    return number


def dice(_event, _context):
    """The next number."""
    return random.random()


def break_hooks(_event, _context):
    """From here on, no restore succeeds."""

    @snapshot_restore_py.register_after_restore
    def after_restore():
        raise OSError("no route")


def interpreter(_event, _context):
    """What a function can see of how its interpreter was started."""
    import csv

    return {
        "environment": dict(os.environ),
        "arguments": sys.argv[1:],
        "first": sys.path[0],
        "folder": os.getcwd(),
        "zone": time.tzname,
        "own": hasattr(csv, "OWN"),
        "ahead": "urllib.request" in sys.modules,
    }


def echo_size(event, _context):
    """Answers a large event with its size."""
    return len(event["filler"])


def large(event, _context):
    """A response of so many bytes: two of them are quotes."""
    return "x" * (event["bytes"] - 2)


def chatty(event, _context):
    """Much output on both streams, then some from a thread and a child process."""
    for line in range(event["lines"]):
        print(f"out {line} " + "x" * 50)
        print(f"err {line}", file=sys.stderr)
    thread = threading.Thread(target=print, args=("from a thread",))
    thread.start()
    thread.join()
    subprocess.run(["/bin/sh", "-c", "echo from a child"], check=True)
    return "said"


def fail(event, _context):
    """Raises from a function of its own, so that there is a traceback."""

    def inner():
        raise ValueError(event["message"])

    inner()


def leave(event, _context):
    """Ends the process."""
    print("about to leave", file=sys.stderr)
    time.sleep(event.get("after", 0))
    print("leaving")
    sys.exit(event["status"])


def kill(_event, _context):
    """Is killed, as by a shortage of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def handler(event, context):
    """Runs what `do` names."""
    if not isinstance(event, dict) or "do" not in event:
        return json.loads(json.dumps(event))
    return globals()[event["do"]](event, context)
