"""Open-loop load: calls leave when it is their time, however slow the answers are; every one is accounted for."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass

# Made before the first call leaves; further ones when they are needed.
CONNECTIONS = 100
# A caller waits so long for an answer, seconds.
PATIENCE_S = 60


@dataclass
class Shot:
    """One call: when it left (seconds since the first), what came back, after how many milliseconds."""

    number: int
    at: float
    status: int
    ms: float
    body: bytes
    served_by: str
    retry_after: str

    @property
    def done_at(self) -> float:
        return self.at + self.ms / 1000


class Connections:
    """Connections that are used again; as many as there are calls under way."""

    def __init__(self, port: int):
        self.port = port
        self.idle = []

    async def take(self):
        while self.idle:
            reader, writer = self.idle.pop()
            if not writer.is_closing() and not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)

    async def open(self, count: int):
        """Before they are needed: QEMU's user network gives up a connection that a busy guest does not take at once."""
        for _ in range(count):
            self.idle.append(await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20))

    async def close(self):
        for _, writer in self.idle:
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                pass


async def post(connections: Connections, path: str, body: bytes):
    """One request; status, headers, body."""
    reader, writer = await connections.take()
    try:
        head = f"POST {path} HTTP/1.1\r\nHost: mote\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        answer = await reader.readexactly(int(headers.get("content-length", "0")))
    except BaseException:
        writer.close()
        raise
    connections.idle.append((reader, writer))
    return int(lines[0].split()[1]), headers, answer


async def fire(port: int, name: str, times: list, event) -> list:
    connections = Connections(port)
    path = f"/2015-03-31/functions/{name}/invocations"
    await connections.open(CONNECTIONS)
    start = time.monotonic() + 0.2

    async def one(number: int, due: float) -> Shot:
        await asyncio.sleep(max(0.0, start + due - time.monotonic()))
        began = time.monotonic()
        body = json.dumps(event(number)).encode()
        try:
            status, headers, answer = await asyncio.wait_for(post(connections, path, body), PATIENCE_S)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            status, headers, answer = 0, {}, repr(error).encode()
        ms = (time.monotonic() - began) * 1000
        return Shot(
            number, began - start, status, ms, answer, headers.get("x-mote-served-by", ""), headers.get("retry-after", "")
        )

    try:
        return list(await asyncio.gather(*(one(number, due) for number, due in enumerate(times))))
    finally:
        await connections.close()


def shoot(port: int, name: str, times: list, event) -> list:
    """Calls a function at the given times, seconds from now, with `event(number)`; every call's fate, in order."""
    return asyncio.run(fire(port, name, times, event))


async def press(port: int, name: str, callers: int, seconds: float, event) -> list:
    connections = Connections(port)
    path = f"/2015-03-31/functions/{name}/invocations"
    start, numbers, shots = time.monotonic(), iter(range(1 << 30)), []

    async def caller():
        while time.monotonic() < start + seconds:
            number, began = next(numbers), time.monotonic()
            status, headers, answer = await post(connections, path, json.dumps(event(number)).encode())
            ms = (time.monotonic() - began) * 1000
            shots.append(Shot(number, began - start, status, ms, answer, headers.get("x-mote-served-by", ""), ""))

    try:
        await asyncio.wait_for(asyncio.gather(*(caller() for _ in range(callers))), seconds + PATIENCE_S)
        return shots
    finally:
        await connections.close()


def capacity(port: int, name: str, callers: int, seconds: float, event) -> float:
    """Calls a second that `callers` get, each calling again when it is answered."""
    shots = asyncio.run(press(port, name, callers, seconds, event))
    assert all(shot.status == 200 for shot in shots), Counter(shot.status for shot in shots)
    return len([shot for shot in shots if shot.done_at <= seconds]) / seconds


def percentile(values, part: float) -> float:
    """The value below which `part` of the values are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0
