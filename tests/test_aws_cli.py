"""The AWS command line client works as it is: only the endpoint is another."""

import json

import pytest

from mote import client, packages


@pytest.fixture(scope="module")
def aws(box):
    return client.command_line(box.port)


def test_the_life_of_a_function(aws, tmp_path):
    first, second, out = tmp_path / "first.zip", tmp_path / "second.zip", tmp_path / "answer.json"
    first.write_bytes(packages.answering("first"))
    second.write_bytes(packages.answering("second"))

    made = aws("create-function", "--function-name", "by-cli", "--runtime", client.RUNTIME, "--role", client.ROLE,
               "--handler", "handler.handler", "--zip-file", f"fileb://{first}", "--timeout", "20",
               "--environment", "Variables={VALUE=one}")
    assert (made["FunctionName"], made["Timeout"], made["State"]) == ("by-cli", 20, "Active")
    aws("wait", "function-active-v2", "--function-name", "by-cli")

    def call():
        meta = aws("invoke", "--function-name", "by-cli", "--payload", '{"x": 1}', "--log-type", "Tail", str(out))
        assert meta["StatusCode"] == 200 and "FunctionError" not in meta and meta["ExecutedVersion"] == "$LATEST"
        assert meta["LogResult"]
        return json.loads(out.read_text())

    assert call() == {"code": "first", "config": "one"}
    aws("update-function-code", "--function-name", "by-cli", "--zip-file", f"fileb://{second}")
    aws("update-function-configuration", "--function-name", "by-cli", "--environment", "Variables={VALUE=two}")
    aws("wait", "function-updated-v2", "--function-name", "by-cli")
    assert call() == {"code": "second", "config": "two"}

    shown = aws("get-function", "--function-name", "by-cli")["Configuration"]
    assert shown["Environment"] == {"Variables": {"VALUE": "two"}}
    assert "by-cli" in [f["FunctionName"] for f in aws("list-functions", "--page-size", "1")["Functions"]]
    aws("delete-function", "--function-name", "by-cli")
    said = aws("invoke", "--function-name", "by-cli", str(out), fails=True)
    assert "ResourceNotFoundException" in said and "by-cli" in said


def test_mistakes_are_readable(aws, tmp_path):
    bad = tmp_path / "bad.zip"
    bad.write_bytes(packages.zip_of({"other.py": "x = 1\n"}))
    said = aws("create-function", "--function-name", "cli-mistake", "--runtime", client.RUNTIME, "--role", client.ROLE,
               "--handler", "handler.handler", "--zip-file", f"fileb://{bad}", fails=True)
    assert "InvalidParameterValueException" in said and "handler.handler" in said and "add it" in said
