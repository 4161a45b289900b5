"""What bad requests get: the status and type of the Lambda API, a message that says what to change, nothing leaked.

None of these starts a sandbox; the counts are compared once, around all of them.
"""

import base64
import json
import re

import pytest

from mote import census, client, http, packages
from mote.client import ROLE, RUNTIME, invoke, refused


@pytest.fixture(scope="module", autouse=True)
def nothing_leaks_in_all(box, lambdas, witness):
    """Counts before and after all tests of this file."""
    before = census.take(box)
    yield
    assert invoke(lambdas, witness, {}).json["code"] == "here"
    census.assert_unchanged(box, before)


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
    "written through a link": (packages.with_link("/tmp", "door", through="file"), ["door"]),
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


# Names, settings, events

@pytest.mark.parametrize("handler", ["nodots", "a b.c", "../handler.handler", "handler.", ".handler", "x" * 129])
def test_a_handler_that_is_none(unchecked, handler):
    with refused() as refusal:
        client.create(unchecked, "bad-handler", packages.answering("x"), handler=handler)
    expect(refusal[0], 400, "InvalidParameterValueException", "handler")


@pytest.mark.parametrize("body", [b"not json", b"{", b'{"a": 1} trailing', b"\xff\xfe", b"NaN", b"{'a': 1}"], ids=repr)
def test_an_event_that_is_no_json(lambdas, witness, body):
    with refused() as refusal:
        lambdas.invoke(FunctionName=witness, Payload=body)
    expect(refusal[0], 400, "InvalidRequestContentException", "json")


def test_an_event_over_the_limit(lambdas, witness):
    with refused() as refusal:
        invoke(lambdas, witness, {"x": "y" * ((6 << 20) + 1)})
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
