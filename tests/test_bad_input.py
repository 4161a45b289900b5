"""What bad input gets: the status and type of the Lambda API, a message that says what to change, nothing leaked."""

import json
import re

import pytest

from mote import client, http, packages
from mote.client import ROLE, RUNTIME, invoke, refused

pytestmark = pytest.mark.usefixtures("nothing_leaks")

TRACE_OF_HANDLER = re.compile(r'File "/var/task/handler\.py", line \d+, in \w+')


def expect(refusal, status: int, kind: str, *words: str) -> None:
    """The refusal has this status and type, and its message all the words."""
    assert (refusal.status, refusal.type) == (status, kind), refusal
    for word in words:
        assert word.lower() in refusal.message.lower(), f"'{word}' is not in: {refusal.message}"


# Packages

BAD_PACKAGES = {
    "no zip at all": (b"this is no zip, whatever its name says", ["zip"]),
    "nothing": (b"", ["zip"]),
    "half a zip": (packages.answering("x")[:-30], ["zip"]),
    "damaged": (packages.damaged(), ["handler.py", "damaged"]),
    "climbs out": (packages.zip_of({"handler.py": "x = 1\n", "../../etc/passwd": "root::0:0"}), ["../../etc/passwd", ".."]),
    "absolute": (packages.zip_of({"handler.py": "x = 1\n", "/etc/passwd": "root::0:0"}), ["/etc/passwd"]),
    "link out": (packages.with_link("../../../etc/passwd"), ["link", "../../../etc/passwd"]),
    "absolute link": (packages.with_link("/etc/passwd"), ["link", "/etc/passwd"]),
    "written through a link": (packages.with_link_twice("/tmp", "door", "file"), ["door"]),
    "unpacks past the limit": (packages.bomb(260), ["zeros.bin", str(250 << 20)]),
    "lies about its size": (packages.lying(3 << 20, 3), ["zeros.bin"]),
    "handler's module missing": (packages.zip_of({"other.py": "def handler(e, c): pass\n"}), ["handler.handler"]),
}


@pytest.mark.parametrize("what", BAD_PACKAGES)
def test_bad_package(lambdas, what):
    code, words = BAD_PACKAGES[what]
    name = f"bad-package-{list(BAD_PACKAGES).index(what)}"
    with refused() as refusal:
        client.create(lambdas, name, code)
    expect(refusal[0], 400, "InvalidParameterValueException", *words)
    with refused() as refusal:
        lambdas.get_function(FunctionName=name)
    expect(refusal[0], 404, "ResourceNotFoundException")


def test_package_over_the_upload_limit(lambdas):
    code = packages.zip_of({"handler.py": "x = 1\n", "padding.bin": bytes(51 << 20)}, compression=0)
    with refused() as refusal:
        client.create(lambdas, "bad-package", code)
    assert refusal[0].status in (400, 413), refusal[0]
    assert refusal[0].type in ("InvalidParameterValueException", "RequestTooLargeException"), refusal[0]
    assert str(50 << 20) in refusal[0].message or "50 M" in refusal[0].message, refusal[0]


# Handlers

def test_a_handler_without_its_function(lambdas, deploy):
    name = deploy(packages.source("def other(event, context):\n    return 1\n"))
    for _ in range(2):
        answer = invoke(lambdas, name, {})
        assert (answer.status, answer.error) == (200, "Unhandled"), str(answer)
        assert answer.json["errorType"] == "Runtime.HandlerNotFound", str(answer)
        assert "handler" in answer.json["errorMessage"], str(answer)


@pytest.mark.parametrize("handler", ["nodots", "a b.c", "../handler.handler", "handler.", ".handler", "x" * 129])
def test_a_handler_that_is_none(unchecked, handler):
    with refused() as refusal:
        client.create(unchecked, "bad-handler", packages.answering("x"), handler=handler)
    expect(refusal[0], 400, "InvalidParameterValueException", "handler")


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


def test_code_that_leaves_at_import(lambdas, deploy):
    name = deploy(packages.source("import os\nos._exit(7)\n\ndef handler(e, c):\n    pass\n"))
    answer = invoke(lambdas, name, {})
    assert answer.error == "Unhandled" and answer.json["errorType"] == "Runtime.ExitError", str(answer)
    assert "exit status 7" in answer.json["errorMessage"], str(answer)


# Calls

def test_code_that_raises_at_call(lambdas, deploy):
    name = deploy(packages.function("probe"))
    answer = invoke(lambdas, name, {"op": "fail", "message": "wrong colour: ü"}, tail=True)
    assert (answer.status, answer.error) == (200, "Unhandled"), str(answer)
    error = answer.json
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "wrong colour: ü"), error
    trace = "".join(error["stackTrace"])
    assert TRACE_OF_HANDLER.search(trace) and "in deeper" in trace and "raise ValueError" in trace, error
    assert error["requestId"] == answer.headers["x-amzn-requestid"]
    assert "wrong colour: ü" in answer.log and "Traceback" in answer.log
    # An exception is no accident: the sandbox stays, and answers the next call.
    after = invoke(lambdas, name, {"op": "echo"})
    assert (after.error, after.served_by) == (None, "warm")


def test_an_answer_that_is_no_json(lambdas, deploy):
    name = deploy(packages.function("probe"))
    answer = invoke(lambdas, name, {"op": "unserialisable"})
    assert answer.error == "Unhandled" and answer.json["errorType"] == "Runtime.MarshalError", str(answer)
    assert invoke(lambdas, name, {"op": "echo"}).error is None


@pytest.mark.parametrize("operation", ["sleep", "burn"])
@pytest.mark.parametrize("served", ["cold", "restore", "warm"])
def test_a_function_past_its_timeout(box, lambdas, deploy, operation, served):
    name = deploy(packages.function("probe"), Timeout=2)
    if served != "cold":
        invoke(lambdas, name, {"op": "echo"})
    if served == "restore":
        box.put_away()
    answer = invoke(lambdas, name, {"op": operation, "seconds": 60}, tail=True)
    assert (answer.status, answer.error, answer.served_by) == (200, "Unhandled", served), str(answer)
    assert answer.json["errorMessage"].endswith("Task timed out after 2.00 seconds"), str(answer)
    assert "Task timed out after 2.00 seconds" in answer.log
    assert 2000 <= answer.phases["invoke"] < 8000, answer.phases
    # It was killed: nothing of it is alive, the next call gets another sandbox and works.
    assert not [s for s in box.get("/system/sandboxes").json if name in str(s)]
    after = invoke(lambdas, name, {"op": "echo"})
    assert (after.error, after.served_by, after.json["calls"]) == (None, "restore", 1), str(after)


def test_an_import_that_never_ends(own_box):
    box = own_box(options={"sandbox.init_timeout_s": 5})
    box.boot()
    lambdas = client.lambda_client(box.port)
    client.create(lambdas, "endless", packages.source("import time\ntime.sleep(3600)\n\ndef handler(e, c):\n    pass\n"))
    client.create(lambdas, "good", packages.answering("good"))
    answer = invoke(lambdas, "endless", {})
    assert answer.error == "Unhandled" and "5" in answer.json["errorMessage"], str(answer)
    assert "timed out" in answer.json["errorMessage"], str(answer)
    assert box.get("/system/sandboxes").json == []
    assert invoke(lambdas, "good", {}).json["code"] == "good"


def test_a_function_that_eats_its_memory(lambdas, deploy):
    name = deploy(packages.function("probe"), Timeout=60)
    answer = invoke(lambdas, name, {"op": "eat", "megabytes": 1024})
    assert (answer.status, answer.error) == (200, "Unhandled"), str(answer)
    error = answer.json
    assert error["errorType"] in ("Runtime.ExitError", "Runtime.OutOfMemory", "MemoryError"), error
    if error["errorType"] == "Runtime.ExitError":
        assert "signal: killed" in error["errorMessage"], error
    after = invoke(lambdas, name, {"op": "echo"})
    assert after.error is None, str(after)


@pytest.mark.parametrize("event, words", [
    ({"op": "leave", "code": 3}, "exit status 3"),
    ({"op": "leave", "code": 0}, "exit"),
    ({"op": "suicide", "signal": 9}, "signal: killed"),
    ({"op": "suicide", "signal": 11}, "signal: segmentation fault"),
])
def test_a_function_that_ends_itself(lambdas, deploy, event, words):
    name = deploy(packages.function("probe"))
    answer = invoke(lambdas, name, event)
    assert (answer.status, answer.error) == (200, "Unhandled"), str(answer)
    assert answer.json["errorType"] == "Runtime.ExitError" and words in answer.json["errorMessage"], str(answer)
    after = invoke(lambdas, name, {"op": "echo"})
    assert (after.error, after.served_by) == (None, "restore"), str(after)


def test_a_response_over_the_limit(lambdas, deploy):
    name = deploy(packages.function("probe"), MemorySize=256, Timeout=60)
    answer = invoke(lambdas, name, {"op": "big", "bytes": (6 << 20) + 200_000})
    assert (answer.status, answer.error) == (200, "Unhandled"), str(answer)
    assert answer.json["errorType"] == "Function.ResponseSizeTooLarge", str(answer)
    assert re.search(r"\b62\d{5}\b", answer.json["errorMessage"]), str(answer)
    assert invoke(lambdas, name, {"op": "echo"}).error is None


# Requests

@pytest.mark.parametrize("body", [b"not json", b"{", b'{"a": 1} trailing', b"\xff\xfe", b"NaN", b"{'a': 1}"], ids=repr)
def test_an_event_that_is_no_json(lambdas, body):
    with refused() as refusal:
        lambdas.invoke(FunctionName="witness", Payload=body)
    expect(refusal[0], 400, "InvalidRequestContentException", "json")


def test_an_event_over_the_limit(lambdas):
    with refused() as refusal:
        invoke(lambdas, "witness", {"x": "y" * ((6 << 20) + 1)})
    expect(refusal[0], 413, "RequestTooLargeException")
    assert re.search(r"\b62\d{5}\b", refusal[0].message), refusal[0]


BAD_NAMES = ["with space", "dot.dot", "slash/slash", "../up", "ünï", "x" * 65, "semi;colon", "-" * 65, "nul\0", "%2e%2e"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_name_that_is_no_name(unchecked, name):
    with refused() as refusal:
        client.create(unchecked, name, packages.answering("x"))
    assert refusal[0].status == 400, refusal[0]
    assert refusal[0].type in ("InvalidParameterValueException", "ValidationException"), refusal[0]
    assert "name" in refusal[0].message.lower(), refusal[0]
    for attempt in (
        lambda: invoke(unchecked, name, {}),
        lambda: unchecked.get_function(FunctionName=name),
        lambda: unchecked.delete_function(FunctionName=name),
    ):
        with refused() as refusal:
            attempt()
        assert refusal[0].status in (400, 404), refusal[0]


def test_an_unknown_function(box, lambdas):
    with refused() as refusal:
        invoke(lambdas, "nobody", {})
    expect(refusal[0], 404, "ResourceNotFoundException", "nobody")
    reply = box.get("/function/nobody")
    assert reply.status == 404 and "nobody" in reply.text, str(reply)


BAD_SETTINGS = {
    "runtime": ({"Runtime": "cobol60"}, ["cobol60", "python3.11"]),
    "timeout 0": ({"Timeout": 0}, ["timeout", "900"]),
    "timeout 901": ({"Timeout": 901}, ["timeout", "900"]),
    "memory 1": ({"MemorySize": 1}, ["memory", "128"]),
    "memory text": ({"MemorySize": "much"}, ["memory"]),
    "reserved variable": ({"Environment": {"Variables": {"AWS_LAMBDA_RUNTIME_API": "x"}}}, ["AWS_LAMBDA_RUNTIME_API"]),
    "variable's name": ({"Environment": {"Variables": {"1=2": "x"}}}, ["1=2"]),
    "much environment": ({"Environment": {"Variables": {"A": "x" * 5000}}}, ["environment", "4"]),
    "architecture": ({"Architectures": ["arm64"]}, ["arm64", "x86_64"]),
    "package type": ({"PackageType": "Image"}, ["Image", "Zip"]),
    "image instead of zip": ({"Code": {"ImageUri": "x"}}, ["ImageUri", "zip"]),
    "bucket instead of zip": ({"Code": {"S3Bucket": "b", "S3Key": "k"}}, ["ZipFile"]),
}


@pytest.mark.parametrize("what", BAD_SETTINGS)
def test_settings_that_cannot_be(box, what):
    """Sent without boto3: it would refuse some of these itself."""
    import base64

    change, words = BAD_SETTINGS[what]
    body = {
        "FunctionName": "bad-settings", "Runtime": RUNTIME, "Role": ROLE, "Handler": "handler.handler",
        "Code": {"ZipFile": base64.b64encode(packages.answering("x")).decode()}, **change,
    }
    reply = http.request(box.port, "POST", "/2015-03-31/functions", body)
    assert reply.status == 400, str(reply)
    kind = reply.headers["x-amzn-errortype"].split(":")[0]
    assert kind in ("InvalidParameterValueException", "InvalidRequestContentException"), str(reply)
    message = reply.json.get("message") or reply.json.get("Message")
    for word in words:
        assert word.lower() in message.lower(), str(reply)


BAD_BODIES = {
    "no json": (b"{", "InvalidRequestContentException"),
    "a list": (b"[]", "InvalidRequestContentException"),
    "nothing": (b"", "InvalidRequestContentException"),
    "no base64": (json.dumps({
        "FunctionName": "x", "Runtime": RUNTIME, "Role": ROLE, "Handler": "a.b", "Code": {"ZipFile": "*not base64*"},
    }).encode(), None),
    "no code": (json.dumps({
        "FunctionName": "x", "Runtime": RUNTIME, "Role": ROLE, "Handler": "a.b",
    }).encode(), None),
}


@pytest.mark.parametrize("what", BAD_BODIES)
def test_a_deploy_that_cannot_be_read(box, what):
    body, kind = BAD_BODIES[what]
    reply = http.request(box.port, "POST", "/2015-03-31/functions", body)
    assert reply.status == 400, str(reply)
    assert reply.headers["x-amzn-errortype"].split(":")[0] in (
        (kind,) if kind else ("InvalidRequestContentException", "InvalidParameterValueException")
    ), str(reply)
    assert (reply.json.get("message") or reply.json.get("Message")), str(reply)
