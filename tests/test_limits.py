"""What a function may take is bounded, and going over it hurts nobody else."""

import errno
import re

from mote import packages
from mote.client import ROLE, RUNTIME, create, invoke, refused

OUT_OF_MEMORY = ("Runtime.OutOfMemory", "MemoryError")


def test_writing_past_the_storage_is_enospc_inside(lambdas, unchecked, deploy, nothing_leaks):
    name = "small-storage"
    # Lambda's own least is 512; Mote goes lower, so that a small machine can bound its functions.
    unchecked.create_function(
        FunctionName=name, Runtime=RUNTIME, Role=ROLE, Handler="handler.handler", Timeout=120, MemorySize=256,
        Code={"ZipFile": packages.function("probe")}, EphemeralStorage={"Size": 64},
    )
    try:
        answer = invoke(lambdas, name, {"op": "write", "megabytes": 100})
        assert answer.error is None, str(answer)
        assert answer.json["errno"] == errno.ENOSPC and 40 <= answer.json["written_mb"] <= 64, str(answer)
        # Room again in the same sandbox; the bound is on all files together, not on each.
        again = invoke(lambdas, name, {"op": "write", "megabytes": 40, "remove": False})
        assert (again.json["errno"], again.served_by) == (None, "warm"), str(again)
        beside = invoke(lambdas, name, {"op": "write", "megabytes": 40, "path": "/tmp/beside"})
        assert beside.json["errno"] == errno.ENOSPC and beside.json["written_mb"] <= 24, str(beside)
    finally:
        lambdas.delete_function(FunctionName=name)


def test_storage_larger_than_memory_does_not_bring_the_sandbox_down(box, lambdas, deploy, nothing_leaks):
    """By default a function may write 512 MB, in a sandbox of 128 that holds its files in memory: it may be told so
    or be ended, but the next call works."""
    name = deploy(packages.function("probe"), Timeout=120)
    answer = invoke(lambdas, name, {"op": "write", "megabytes": 600})
    if answer.error is None:
        assert answer.json["errno"] == errno.ENOSPC, str(answer)
    else:
        assert answer.json["errorType"] in OUT_OF_MEMORY, str(answer)
    assert invoke(lambdas, name, {"op": "echo"}).error is None


def test_the_code_is_read_only_and_the_rest_can_be_written(lambdas, probe):
    paths = {"/var/task/new": errno.EROFS, "/var/task/handler.py": errno.EROFS, "/tmp/new": None}
    assert invoke(lambdas, probe, {"op": "try_paths", "paths": list(paths)}).json == paths


def test_a_function_that_leaves_processes_behind_takes_them_with_it(box, lambdas, deploy, nothing_leaks):
    name = deploy(packages.function("probe"))
    assert invoke(lambdas, name, {"op": "daemon"}).json["pid"] > 1
    assert invoke(lambdas, name, {"op": "echo"}).json["calls"] == 2


def test_idle_sandboxes_make_room_for_others(box, lambdas, deploy):
    """More functions than fit in memory at once: each is answered, the idle ones go."""
    # Two are enough when each takes more than half.
    count = 2
    size = box.status()["sandboxes"]["capacity_mb"] // count + 1
    names = [deploy(packages.answering(f"big {n}"), MemorySize=size, Timeout=60) for n in range(count)]
    for number, name in enumerate(names):
        assert invoke(lambdas, name, {}).json["code"] == f"big {number}"
    alive = box.get("/system/sandboxes").json
    assert 0 < len(alive) < count, alive
    box.put_away()


def test_more_memory_than_there_is_is_refused_with_the_limit(box, lambdas):
    total_mb = box.status()["census"]["memory_total_kb"] // 1024
    with refused() as refusal:
        try:
            create(lambdas, "too-big", packages.answering("x"), MemorySize=10_240)
            invoke(lambdas, "too-big", {})
        finally:
            delete_if_there(lambdas, "too-big")
    assert refusal[0].status == 400, refusal
    limits = [int(number) for number in re.findall(r"\d+", refusal[0].message)]
    assert any(128 <= limit <= total_mb for limit in limits), refusal


def delete_if_there(lambdas, name):
    try:
        lambdas.delete_function(FunctionName=name)
    except lambdas.exceptions.ResourceNotFoundException:
        pass
