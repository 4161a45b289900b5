"""Starts awslambdaric, unmodified, with one hook of ours: sandboxes restored from one snapshot must not share
randomness. The kernel's generator is reseeded by the agent; what the interpreter keeps in memory, here.

A function that wants a fixed sequence seeds inside its handler: a seed set at import is replaced by this.

Without a handler as argument the function is not known yet: what can be done for any is done, then the agent is asked."""

import importlib
import json
import os
import random
import sys
import time

from awslambdaric import bootstrap
from awslambdaric.__main__ import main
from awslambdaric.lambda_runtime_client import LambdaRuntimeClient
from awslambdaric.lambda_runtime_hooks_runner import run_after_restore
from snapshot_restore_py import register_after_restore

# A link that the agent points at the id of this sandbox, before its first event after a restore arrives.
GENERATION = os.environ.pop("MOTE_GENERATION")
generation = None

# What most functions import sooner or later, and what is costly. No module is among them that makes a secret when it is
# imported (multiprocessing does): it would be every function's.
COMMON = """
    base64 concurrent.futures.thread contextlib copy csv dataclasses datetime decimal email.message functools hashlib hmac
    html http.client inspect io logging math pathlib pickle queue re secrets shutil socket ssl string struct subprocess
    tempfile textwrap threading traceback typing urllib.request uuid zoneinfo
""".split()


def take_new_identity():
    global generation
    generation = os.readlink(GENERATION)
    random.seed()
    # Only what is loaded: a library loaded later seeds itself from the kernel.
    if ssl := sys.modules.get("_ssl"):
        ssl.RAND_add(os.urandom(48), 48.0)
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()
    day = time.strftime("%Y/%m/%d", time.gmtime())
    version = os.environ.get("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
    instance = generation.replace("-", "")
    os.environ["AWS_LAMBDA_LOG_STREAM_NAME"] = f"{day}/[{version}]{instance}"


# First of all hooks: those of the function already find the new state.
register_after_restore(take_new_identity)

wait_next_invocation = LambdaRuntimeClient.wait_next_invocation

# awslambdaric gives a connection one second, which a machine that restores many sandboxes at once may take. What it
# cannot get is left alone for a moment, then asked for again.
ATTEMPTS = 10
PAUSE_S = 0.1


def wait_patiently(client):
    for _ in range(ATTEMPTS - 1):
        try:
            return wait_next_invocation(client)
        except RuntimeError:
            time.sleep(PAUSE_S)
    return wait_next_invocation(client)


def wait_as_who_we_are(client):
    """A snapshot taken between two calls wakes up in here, in as many sandboxes as are restored from it, and
    nothing else runs before the handler does."""
    request = wait_patiently(client)
    # Of a call without a restore this is all the cost: one system call.
    if os.readlink(GENERATION) != generation:
        try:
            run_after_restore()
        except BaseException:
            # As awslambdaric tells of hooks that fail after `restore/next`.
            kind, error, trace = sys.exc_info()
            report = bootstrap.build_fault_result((kind, error, trace.tb_next), None)
            with bootstrap.create_log_sink() as log_sink:
                bootstrap.log_error(report, log_sink)
            client.report_restore_error(report)
            sys.exit(65)
    return request


LambdaRuntimeClient.wait_next_invocation = wait_as_who_we_are


def wait_for_function():
    """A snapshot taken now wakes up in here, in sandboxes of different functions."""
    before = set(sys.modules)
    for name in COMMON:
        importlib.import_module(name)
    ahead = set(sys.modules) - before

    import http.client

    agent = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    agent.request("GET", "/mote/function")
    response = agent.getresponse()
    if response.status != 200:
        sys.exit(f"No function: {response.status}")
    function = json.load(response)
    agent.close()

    os.environ.clear()
    os.environ.update(function["environment"])
    del os.environ["MOTE_GENERATION"]
    time.tzset()
    os.chdir(function["folder"])
    sys.argv.append(function["handler"])
    take_new_identity()
    # A function's own module goes before one of the standard library: as if nothing had been loaded ahead.
    own = {name.partition(".")[0] for name in os.listdir(function["folder"])}
    for name in ahead:
        if name.partition(".")[0] in own:
            del sys.modules[name]


if len(sys.argv) == 1:
    wait_for_function()
else:
    generation = os.readlink(GENERATION)

# As `python -m awslambdaric` has it: the function's folder comes first, not this file's.
sys.path[0] = os.environ.get("LAMBDA_TASK_ROOT", os.getcwd())

main(sys.argv)
