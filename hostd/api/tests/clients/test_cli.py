"""The aws command line client as it is: only the endpoint is another."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROLE, URL


@pytest.fixture(scope="module")
def aws():
    program = Path(sys.executable).parent / "aws"
    environment = {
        **os.environ, "AWS_ACCESS_KEY_ID": "cli", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PAGER": "", "AWS_MAX_ATTEMPTS": "1",
    }

    def run(*arguments, fails=False):
        command = [program, "--endpoint-url", URL, "--output", "json", "lambda", *arguments]
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode != 0) == fails, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stderr if fails else json.loads(done.stdout or "null")

    return run


def test_the_life_of_a_function(aws, tmp_path):
    code, out = tmp_path / "code.zip", tmp_path / "answer.json"
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("app.py", "def handler(event, context): return event")
    settings = ["--runtime", "python3.11", "--role", ROLE, "--handler", "app.handler", "--zip-file", f"fileb://{code}"]
    made = aws("create-function", "--function-name", "by-cli", *settings, "--environment", "Variables={KEY=one}")
    assert made["FunctionName"] == "by-cli" and made["Environment"] == {"Variables": {"KEY": "one"}}
    aws("wait", "function-active-v2", "--function-name", "by-cli")
    meta = aws("invoke", "--function-name", "by-cli", "--payload", '{"print":"hi"}', "--log-type", "Tail", str(out))
    assert (meta["StatusCode"], meta["ExecutedVersion"]) == (200, "$LATEST") and meta["LogResult"]
    assert json.loads(out.read_text()) == {"print": "hi"}
    meta = aws("invoke", "--function-name", "by-cli", "--payload", '{"fail":"no"}', str(out))
    assert meta["FunctionError"] == "Unhandled"
    aws("update-function-configuration", "--function-name", "by-cli", "--timeout", "9")
    aws("wait", "function-updated-v2", "--function-name", "by-cli")
    assert aws("get-function", "--function-name", "by-cli")["Configuration"]["Timeout"] == 9
    assert "by-cli" in [f["FunctionName"] for f in aws("list-functions", "--page-size", "1")["Functions"]]
    said = aws("create-function", "--function-name", "by-cli", *settings, fails=True)
    assert "(ResourceConflictException)" in said and "already exist" in said
    aws("delete-function", "--function-name", "by-cli")
    assert "(ResourceNotFoundException)" in aws("get-function", "--function-name", "by-cli", fails=True)
