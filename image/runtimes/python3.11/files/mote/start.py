"""Starts awslambdaric, unmodified, with one hook of ours: sandboxes restored from one snapshot must not share
randomness. The kernel's generator is reseeded by the agent; what the interpreter keeps in memory, here.

A function that wants a fixed sequence seeds inside its handler: a seed set at import is replaced by this."""

import os
import random
import sys
import time

from snapshot_restore_py import register_after_restore


def take_new_identity():
    random.seed()
    # Only what is loaded: a library loaded later seeds itself from the kernel.
    if ssl := sys.modules.get("_ssl"):
        ssl.RAND_add(os.urandom(48), 48.0)
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()
    day = time.strftime("%Y/%m/%d", time.gmtime())
    version = os.environ.get("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
    instance = os.uname().nodename.removeprefix("mote-")
    os.environ["AWS_LAMBDA_LOG_STREAM_NAME"] = f"{day}/[{version}]{instance}"


# First of all hooks: those of the function already find the new state.
register_after_restore(take_new_identity)

# As `python -m awslambdaric` has it: the function's folder comes first, not this file's.
sys.path[0] = os.environ.get("LAMBDA_TASK_ROOT", os.getcwd())

from awslambdaric.__main__ import main  # noqa: E402

main(sys.argv)
