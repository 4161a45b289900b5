"""boto3 against the appliance: bounded waits, no retries (they would hide wrong answers), headers in reach."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

# Nothing of this machine's own AWS set-up may matter.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "mote",
    "AWS_SECRET_ACCESS_KEY": "mote",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_PAGER": "",
    "AWS_MAX_ATTEMPTS": "1",
}
ROLE = "arn:aws:iam::000000000000:role/any"
RUNTIME = "python3.11"
PHASE = re.compile(r"([A-Za-z_-]+);dur=([0-9.]+)")


# Every client made here, while it lives.
CLIENTS: weakref.WeakSet = weakref.WeakSet()
# A session reads the API's description once for all its clients, and may be asked by one thread at a time.
SESSION = boto3.session.Session(
    aws_access_key_id=ENVIRONMENT["AWS_ACCESS_KEY_ID"],
    aws_secret_access_key=ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
    region_name=ENVIRONMENT["AWS_DEFAULT_REGION"],
)
ONE_AT_A_TIME = threading.Lock()


def lambda_client(port: int, read_timeout: float = 180, parameter_validation: bool = True):
    """A boto3 Lambda client for the appliance on this machine's `port`."""
    config = Config(
        connect_timeout=10,
        read_timeout=read_timeout,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=16,
        parameter_validation=parameter_validation,
    )
    with ONE_AT_A_TIME:
        made = SESSION.client("lambda", endpoint_url=f"http://127.0.0.1:{port}", config=config)
        CLIENTS.add(made)
    return made


def command_line(port: int):
    """The AWS command line client for the appliance on this machine's `port`: `run(operation, …)` gives what it prints,
    read as JSON, or with `fails` what it complains of."""
    program = Path(sys.executable).parent / "aws"
    program = str(program) if program.exists() else shutil.which("aws")
    assert program, "awscli is in tests/requirements.txt but not installed"

    def run(*arguments, fails: bool = False):
        command = [program, "--endpoint-url", f"http://127.0.0.1:{port}", "--output", "json", "lambda", *arguments]
        done = subprocess.run(
            command, env={**os.environ, **ENVIRONMENT}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=180,
        )
        assert (done.returncode != 0) == fails, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stderr if fails else json.loads(done.stdout or "null")

    return run


def hang_up() -> None:
    """Closes the idle connections of all clients, which would show in counts; the clients can be used on."""
    with ONE_AT_A_TIME:
        for made in CLIENTS:
            made.close()


@dataclass
class Answer:
    """What an invocation gave, and how it was served."""

    status: int
    payload: bytes
    headers: dict
    error: str | None
    log: str
    ms: float

    @property
    def json(self):
        return json.loads(self.payload)

    @property
    def served_by(self) -> str:
        """`cold`, `restore` or `warm`."""
        return self.headers.get("x-mote-served-by", "")

    @property
    def phases(self) -> dict:
        """Milliseconds of each phase, in order."""
        return phases(self.headers.get("x-mote-phases", ""))

    def __str__(self) -> str:
        return f"{self.status} error={self.error} {self.payload[:400]!r}"


def phases(header: str) -> dict:
    """Reads an X-Mote-Phases header: `restore;dur=12.3, invoke;dur=4.5`."""
    return {name: float(ms) for name, ms in PHASE.findall(header)}


def invoke(client, name: str, event=None, tail: bool = False, **options) -> Answer:
    """Calls a function; errors of the API itself are raised as boto3 raises them."""
    if event is not None:
        options["Payload"] = json.dumps(event).encode()
    if tail:
        options["LogType"] = "Tail"
    start = time.monotonic()
    reply = client.invoke(FunctionName=name, **options)
    payload = reply["Payload"].read()
    ms = (time.monotonic() - start) * 1000
    return Answer(
        status=reply["StatusCode"],
        payload=payload,
        headers=reply["ResponseMetadata"]["HTTPHeaders"],
        error=reply.get("FunctionError"),
        log=base64.b64decode(reply.get("LogResult", "")).decode("utf-8", "replace"),
        ms=ms,
    )


def create(client, name: str, code: bytes, handler: str = "handler.handler", **options) -> dict:
    """Deploys a new function with sensible settings; `options` as CreateFunction takes them."""
    settings = {"Timeout": 30, "MemorySize": 128, **options}
    return client.create_function(
        FunctionName=name, Runtime=RUNTIME, Role=ROLE, Handler=handler, Code={"ZipFile": code}, **settings
    )


def at_once(port: int, count: int, act, limit_s: float = 240) -> list:
    """Runs `act(client, number)` in `count` threads that begin together, each with a client of its own; gives their
    results in order, or raises what one of them raised.

    The clients are connected before: QEMU's user network gives a connection up that the guest, busy with what the first
    of them asked for, does not take within a second."""
    gate = threading.Barrier(count)

    def run(number):
        own = lambda_client(port)
        try:
            own.list_functions(MaxItems=1)
            gate.wait(60)
            return act(own, number)
        finally:
            own.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count), timeout=limit_s))


@dataclass
class Refusal:
    """How the API refused: HTTP status, error type, message."""

    status: int
    type: str
    message: str
    headers: dict


def refusal_of(error: ClientError) -> Refusal:
    """What the API said."""
    meta = error.response["ResponseMetadata"]
    return Refusal(
        status=meta["HTTPStatusCode"],
        type=error.response["Error"]["Code"],
        message=error.response["Error"]["Message"] or "",
        headers=meta["HTTPHeaders"],
    )


@contextmanager
def refused():
    """Expects the block to be refused by the API; gives a list that then holds the refusal."""
    caught: list[Refusal] = []
    try:
        yield caught
    except ClientError as error:
        caught.append(refusal_of(error))
        return
    raise AssertionError("The API accepted what it should refuse")
