"""A function that does what the test asks, so that one deployment serves many tests."""

import base64
import ctypes
import json
import os
import random
import secrets
import socket
import subprocess
import sys
import time
import uuid

# Drawn once before the snapshot: whatever keeps state in the process has it then.
random.random()
AT_IMPORT = {"random": random.random(), "uuid": str(uuid.uuid4()), "time": time.time()}
try:
    import ssl

    ssl.RAND_bytes(16)
except ImportError:
    ssl = None

CALLS = 0
KEPT = []


def handler(event, context):
    global CALLS
    CALLS += 1
    operation = event.get("op", "echo") if isinstance(event, dict) else "echo"
    return OPERATIONS[operation](event, context)


def echo(event, context):
    return {"event": event, "calls": CALLS}


def describe(event, context):
    """Everything the Runtime API and the environment tell a function."""
    return {
        "request_id": context.aws_request_id,
        "function_name": context.function_name,
        "function_version": context.function_version,
        "arn": context.invoked_function_arn,
        "memory": context.memory_limit_in_mb,
        "log_group": context.log_group_name,
        "log_stream": context.log_stream_name,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "environment": dict(os.environ),
        "python": sys.version,
        "calls": CALLS,
        "mem_total_kb": meminfo("MemTotal"),
    }


def identity(event, context):
    """What two sandboxes of one snapshot must not share."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot_id = file.read().strip()
    libc = ctypes.CDLL(None)
    return {
        "unique": {
            "random.random": random.random(),
            "random.getrandbits": random.getrandbits(64),
            "os.urandom": os.urandom(16).hex(),
            "uuid4": str(uuid.uuid4()),
            "secrets": secrets.token_hex(16),
            "ssl": ssl.RAND_bytes(16).hex() if ssl else str(uuid.uuid4()),
            "log_stream": context.log_stream_name,
            "hostname": socket.gethostname(),
            "libc hostname": hostname(libc),
            "request_id": context.aws_request_id,
            "boot_id": boot_id,
        },
        "shared": AT_IMPORT,
        "time": time.time(),
        "monotonic": time.monotonic(),
        "calls": CALLS,
    }


def hostname(libc):
    buffer = ctypes.create_string_buffer(256)
    libc.gethostname(buffer, 256)
    return buffer.value.decode()


def draw_random(event, context):
    return {name: value for name, value in identity(event, context)["unique"].items()}


def meminfo(field):
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
    return 0


def sleep(event, context):
    time.sleep(event["seconds"])
    return {"slept": event["seconds"], "tag": event.get("tag")}


def burn(event, context):
    """Keeps the processor busy: a timeout must not depend on the function waiting."""
    end = time.monotonic() + event["seconds"]
    while time.monotonic() < end:
        pass
    return "burnt"


def fail(event, context):
    return deeper(event)


def deeper(event):
    raise ValueError(event.get("message", "as asked"))


def leave(event, context):
    os._exit(event.get("code", 3))


def suicide(event, context):
    os.kill(os.getpid(), event.get("signal", 9))
    time.sleep(60)


def eat(event, context):
    """Takes memory, for real: every page is written."""
    for _ in range(event["megabytes"]):
        block = bytearray(1 << 20)
        for offset in range(0, len(block), 4096):
            block[offset] = 1
        KEPT.append(block)
    return {"eaten": len(KEPT)}


def let_go(event, context):
    """Gives back all that was eaten, if nothing of it has changed."""
    whole = all(block.count(1) == 256 for block in KEPT)
    pieces = len(KEPT)
    KEPT.clear()
    return {"let_go": pieces, "whole": whole, "free_kb": meminfo("MemFree"), "mem_total_kb": meminfo("MemTotal")}


def big(event, context):
    return "x" * event["bytes"]


def unserialisable(event, context):
    return {"what": object()}


def speak(event, context):
    """Writes to the log: print, stderr, and the logging module's way."""
    import logging

    print(event["text"])
    print(event["text"] + " on stderr", file=sys.stderr)
    logging.getLogger().warning("%s by logging", event["text"])
    return "spoken"


def flood(event, context):
    line = "flood " + "x" * 1000
    for number in range(event["lines"]):
        print(number, line)
    print("last words")
    return "flooded"


def write(event, context):
    """Writes files until `megabytes` or the first error; says how far it came."""
    path = event.get("path", "/tmp/blob")
    written = 0
    try:
        with open(path, "wb") as file:
            for _ in range(event["megabytes"]):
                file.write(os.urandom(1 << 16) * 16)
                file.flush()
                written += 1
        problem = None
    except OSError as error:
        problem = error.errno
    if event.get("remove", True):
        try:
            os.unlink(path)
        except OSError:
            pass
    return {"written_mb": written, "errno": problem}


def try_paths(event, context):
    """The error number of creating a file at each path; None where it worked."""
    outcome = {}
    for path in event["paths"]:
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write("x")
            os.unlink(path)
            outcome[path] = None
        except OSError as error:
            outcome[path] = error.errno
    return outcome


def left_over(event, context):
    """Leaves a file behind and says what was there before."""
    path = "/tmp/left-over"
    before = os.path.exists(path)
    with open(path, "w", encoding="ascii") as file:
        file.write("x")
    return {"before": before, "calls": CALLS}


def daemon(event, context):
    """Starts a process that outlives the call."""
    child = subprocess.Popen(["/usr/bin/python3.11", "-c", "import time; time.sleep(600)"])
    return {"pid": child.pid}


def blob(event, context):
    return base64.b64encode(os.urandom(event["bytes"])).decode()


def http(event, context):
    """For /function/{name}: shows the request, or answers as `respond` says."""
    return {
        "statusCode": 200,
        "headers": {"content-type": "application/json", "x-probe": "yes"},
        "body": json.dumps(event),
    }


OPERATIONS = {
    function.__name__: function
    for function in (
        echo, describe, identity, draw_random, sleep, burn, fail, leave, suicide, eat, let_go, big, unserialisable,
        speak, flood, write, try_paths, left_over, daemon, blob, http,
    )
}
