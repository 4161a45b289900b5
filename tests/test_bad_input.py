"""What bad functions get: the errors of Lambda, words that say what happened, nothing leaked, the next call answered."""

import re

import pytest

from mote import client, packages
from mote.client import invoke

pytestmark = pytest.mark.usefixtures("nothing_leaks")

TRACE_OF_HANDLER = re.compile(r'File "/var/task/handler\.py", line \d+, in \w+')


@pytest.fixture(scope="module")
def victim(box, lambdas):
    """Name of a function that bad calls are made to, with a snapshot: each call that ends its sandbox costs a restore."""
    client.create(lambdas, "victim", packages.function("probe"), Timeout=60)
    client.create(lambdas, "hurried", packages.function("probe"), Timeout=2)
    for name in ("victim", "hurried"):
        assert invoke(lambdas, name, {"op": "echo"}).error is None
    yield "victim"
    for name in ("victim", "hurried"):
        lambdas.delete_function(FunctionName=name)


# Handlers

def test_a_handler_without_its_function(lambdas, deploy):
    name = deploy(packages.source("def other(event, context):\n    return 1\n"))
    for _ in range(2):
        answer = invoke(lambdas, name, {})
        assert (answer.status, answer.error) == (200, "Unhandled"), str(answer)
        assert answer.json["errorType"] == "Runtime.HandlerNotFound", str(answer)
        assert "handler" in answer.json["errorMessage"], str(answer)


def test_code_that_raises_at_import(lambdas, deploy):
    name = deploy(packages.source("import os\n\n\ndef prepare():\n    raise KeyError('no such colour')\n\nprepare()\n"))
    for _ in range(2):
        answer = invoke(lambdas, name, {}, tail=True)
        assert (answer.status, answer.error) == (200, "Unhandled"), str(answer)
        error = answer.json
        assert error["errorType"] in ("KeyError", "Runtime.KeyError"), error
        assert "no such colour" in error["errorMessage"], error
        trace = "".join(error["stackTrace"])
        assert TRACE_OF_HANDLER.search(trace) and "prepare" in trace, error


def test_code_that_imports_what_is_not_there(lambdas, deploy):
    name = deploy(packages.source("import not_in_the_package\n\ndef handler(e, c):\n    pass\n"))
    answer = invoke(lambdas, name, {})
    assert answer.error == "Unhandled" and answer.json["errorType"] == "Runtime.ImportModuleError", str(answer)
    assert "not_in_the_package" in answer.json["errorMessage"], str(answer)


def test_code_that_is_no_python(lambdas, deploy):
    name = deploy(packages.source("def handler(event, context)\n    return 1\n"))
    answer = invoke(lambdas, name, {})
    assert answer.error == "Unhandled" and answer.json["errorType"] == "Runtime.UserCodeSyntaxError", str(answer)
    assert "handler" in answer.json["errorMessage"], str(answer)


def test_code_that_eats_its_memory_at_import(lambdas, deploy):
    name = deploy(packages.source("kept = [b'x' * (1 << 20) for _ in range(1024)]\n\ndef handler(e, c):\n    pass\n"))
    answer = invoke(lambdas, name, {})
    assert answer.error == "Unhandled" and answer.json["errorType"] == "Runtime.OutOfMemory", str(answer)
    assert "128 MB" in answer.json["errorMessage"] and "MemorySize" in answer.json["errorMessage"], str(answer)


def test_code_that_leaves_at_import(lambdas, deploy):
    name = deploy(packages.source("import os\nos._exit(7)\n\ndef handler(e, c):\n    pass\n"))
    answer = invoke(lambdas, name, {})
    assert answer.error == "Unhandled" and answer.json["errorType"] == "Runtime.ExitError", str(answer)
    assert "exit status 7" in answer.json["errorMessage"], str(answer)


# Calls

def test_code_that_raises_at_call(lambdas, victim):
    answer = invoke(lambdas, victim, {"op": "fail", "message": "wrong colour: ü"}, tail=True)
    assert (answer.status, answer.error) == (200, "Unhandled"), str(answer)
    error = answer.json
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "wrong colour: ü"), error
    trace = "".join(error["stackTrace"])
    assert TRACE_OF_HANDLER.search(trace) and "in deeper" in trace and "raise ValueError" in trace, error
    assert error["requestId"] == answer.headers["x-amzn-requestid"]
    assert "wrong colour: ü" in answer.log and "Traceback" in answer.log
    # An exception is no accident: the sandbox stays, and answers the next call.
    after = invoke(lambdas, victim, {"op": "echo"})
    assert (after.error, after.served_by) == (None, "warm")


def test_an_answer_that_is_no_json(lambdas, victim):
    answer = invoke(lambdas, victim, {"op": "unserialisable"})
    assert answer.error == "Unhandled" and answer.json["errorType"] == "Runtime.MarshalError", str(answer)
    assert invoke(lambdas, victim, {"op": "echo"}).error is None


@pytest.mark.parametrize("operation, served", [("sleep", "cold"), ("sleep", "restore"), ("sleep", "warm"), ("burn", "warm")])
def test_a_function_past_its_timeout(box, lambdas, deploy, victim, operation, served):
    name = deploy(packages.function("probe"), Timeout=2) if served == "cold" else "hurried"
    if served == "warm":
        invoke(lambdas, name, {"op": "echo"})
    answer = invoke(lambdas, name, {"op": operation, "seconds": 60}, tail=True)
    assert (answer.status, answer.error, answer.served_by) == (200, "Unhandled", served), str(answer)
    assert answer.json["errorMessage"].endswith("Task timed out after 2.00 seconds"), str(answer)
    assert "Task timed out after 2.00 seconds" in answer.log
    assert 2000 <= answer.phases["invoke"] < 8000, answer.phases
    # It was killed: nothing of it is alive, the next call gets another sandbox and works.
    assert not [s for s in box.get("/system/sandboxes").json if name in str(s)]
    after = invoke(lambdas, name, {"op": "echo"})
    assert (after.error, after.served_by, after.json["calls"]) == (None, "restore", 1), str(after)


def test_a_function_that_eats_its_memory(lambdas, victim):
    answer = invoke(lambdas, victim, {"op": "eat", "megabytes": 1024}, tail=True)
    assert (answer.status, answer.error) == (200, "Unhandled"), str(answer)
    error = answer.json
    assert error["errorType"] == "Runtime.OutOfMemory", error
    assert error["errorMessage"].startswith(f"RequestId: {answer.headers['x-amzn-requestid']} Error: "), error
    assert "128 MB" in error["errorMessage"] and "MemorySize" in error["errorMessage"], error
    assert "Memory Size: 128 MB\tMax Memory Used: 128 MB" in answer.log, answer.log
    after = invoke(lambdas, victim, {"op": "echo"})
    assert after.error is None, str(after)


@pytest.mark.parametrize("event, words", [
    ({"op": "leave", "code": 3}, "exit status 3"),
    ({"op": "leave", "code": 0}, "exit"),
    ({"op": "suicide", "signal": 9}, "signal: killed"),
    ({"op": "suicide", "signal": 11}, "signal: segmentation fault"),
])
def test_a_function_that_ends_itself(lambdas, victim, event, words):
    answer = invoke(lambdas, victim, event)
    assert (answer.status, answer.error) == (200, "Unhandled"), str(answer)
    assert answer.json["errorType"] == "Runtime.ExitError" and words in answer.json["errorMessage"], str(answer)
    after = invoke(lambdas, victim, {"op": "echo"})
    assert (after.error, after.served_by) == (None, "restore"), str(after)


def test_a_response_over_the_limit(lambdas, victim):
    answer = invoke(lambdas, victim, {"op": "big", "bytes": (6 << 20) + 200_000})
    assert (answer.status, answer.error) == (200, "Unhandled"), str(answer)
    assert answer.json["errorType"] == "Function.ResponseSizeTooLarge", str(answer)
    assert re.search(r"\b62\d{5}\b", answer.json["errorMessage"]), str(answer)
    assert invoke(lambdas, victim, {"op": "echo"}).error is None


