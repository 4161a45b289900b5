"""Plain HTTP for what boto3 does not speak: health, system, /function/{name}, and requests that are wrong on purpose."""

import http.client
import json
import time
from dataclasses import dataclass, field

# One connection per request: idle connections of a client would show in the census.
HEADERS = {"Connection": "close"}


@dataclass
class Reply:
    """An answer: status, headers with lower-case names, body, and the milliseconds it took."""

    status: int
    headers: dict
    body: bytes
    ms: float = field(default=0.0)

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def __str__(self) -> str:
        return f"{self.status} {self.text[:400]}"


def request(port: int, method: str, path: str, body=None, headers=None, timeout: float = 120) -> Reply:
    """Sends one request to the appliance on this machine's `port`. Dicts and lists are sent as JSON."""
    sent = {**HEADERS, **(headers or {})}
    if isinstance(body, (dict, list)):
        body = json.dumps(body).encode()
        sent.setdefault("Content-Type", "application/json")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    start = time.monotonic()
    try:
        connection.request(method, path, body=body, headers=sent)
        answer = connection.getresponse()
        data = answer.read()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, names, data, (time.monotonic() - start) * 1000)
    finally:
        connection.close()
