"""The tests' own tools, without an appliance: a tool that sees nothing makes tests that cannot fail."""

import io
import json
import os
import socket
import threading
import zipfile

import pytest

from mote import census, client, http, packages
from mote.appliance import Appliance, free_port
from mote.qmp import Qmp


def test_phases_are_read_from_the_header():
    assert client.phases("spawn;dur=1.200, restore;dur=30.004") == {"spawn": 1.2, "restore": 30.004}
    assert client.phases("") == {}


COUNTS = {key: 5 for key in (*census.EXACT, "sandboxes")} | {
    "memory_available_kb": 1_000_000, "hostd_fds_by_kind": {"socket": 3, "/data/db": 2},
}


@pytest.mark.parametrize("key", [*census.EXACT, "sandboxes"])
def test_one_more_of_anything_is_noticed(key):
    assert census.difference(COUNTS, COUNTS) == {}
    assert census.difference(COUNTS, COUNTS | {key: 6})[key] == (5, 6)
    assert census.difference(COUNTS, COUNTS | {key: 4}) == {}


def test_more_descriptors_are_told_by_kind():
    more = COUNTS | {"hostd_fds": 6, "hostd_fds_by_kind": {"socket": 3, "/data/db": 1, "pipe": 2}}
    assert census.difference(COUNTS, more)["hostd_fds_by_kind"] == {"/data/db": (2, 1), "pipe": (0, 2)}


def test_lost_memory_is_noticed_and_gained_memory_is_not():
    lost = COUNTS | {"memory_available_kb": 1_000_000 - census.MEMORY_SLACK_KB - 1}
    assert list(census.difference(COUNTS, lost)) == ["memory_available_kb"]
    assert census.difference(COUNTS, COUNTS | {"memory_available_kb": 1_100_000}) == {}


def names(code: bytes) -> list:
    return zipfile.ZipFile(io.BytesIO(code)).namelist()


def test_the_bad_packages_are_bad_in_the_way_they_say():
    assert "../up" in names(packages.zip_of({"../up": "x"}))
    bomb = zipfile.ZipFile(io.BytesIO(packages.bomb(3)))
    assert bomb.getinfo("zeros.bin").file_size == 3 << 20 and len(packages.bomb(3)) < 1 << 16
    lie = zipfile.ZipFile(io.BytesIO(packages.lying(3 << 20, 3)))
    assert lie.getinfo("zeros.bin").file_size == 3
    link = zipfile.ZipFile(io.BytesIO(packages.with_link("/etc/passwd"))).getinfo("link")
    assert link.external_attr >> 28 == 0o12
    assert names(packages.with_link("/tmp", "door", through="file")) == ["handler.py", "door", "door/file"]


def test_the_probe_answers_without_an_appliance():
    scope: dict = {}
    exec(compile(zipfile.ZipFile(io.BytesIO(packages.function("probe"))).read("handler.py"), "handler.py", "exec"), scope)

    class Context:
        aws_request_id = log_stream_name = "x"

    assert scope["handler"]({"op": "echo", "a": 1}, Context) == {"event": {"op": "echo", "a": 1}, "calls": 1}
    assert scope["handler"]([1], Context)["calls"] == 2
    one, two = (scope["handler"]({"op": "draw_random"}, Context) for _ in range(2))
    assert all(one[key] != two[key] for key in ("random.random", "os.urandom", "uuid4", "secrets", "ssl"))
    assert scope["handler"]({"op": "write", "megabytes": 1, "path": "/nowhere/x"}, Context)["errno"] == 2


def test_a_refusal_is_expected_and_nothing_else():
    with pytest.raises(AssertionError), client.refused():
        pass
    with pytest.raises(ZeroDivisionError), client.refused():
        1 / 0


def test_the_power_button_speaks_qmp(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "qmp"))
    listener.listen()
    heard = []

    def serve():
        peer, _ = listener.accept()
        with peer, peer.makefile("rw") as lines:
            print('{"QMP": {}}', file=lines, flush=True)
            for _ in range(2):
                heard.append(json.loads(lines.readline()))
                print('{"event": "X"}\n{"return": {}}', file=lines, flush=True)

    thread = threading.Thread(target=serve)
    thread.start()
    with Qmp(tmp_path / "qmp") as qmp:
        qmp.execute("system_powerdown")
    thread.join(10)
    listener.close()
    assert heard == [{"execute": "qmp_capabilities"}, {"execute": "system_powerdown"}]


def test_a_machine_that_does_not_start_is_an_error_and_leaves_nothing(monkeypatch, tmp_path):
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho '[\"sleep\", \"60\"]'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("MOTE_IMAGE_TOOL", str(tool))
    box = Appliance()
    box.start()
    with pytest.raises(AssertionError, match="gave no 200 within 1 s"):
        box.wait_ready(limit_s=1)
    pid = box.pid
    assert box.running
    box.close()
    assert not box.folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_plain_http_reports_what_came():
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def serve():
        peer, _ = listener.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 418 Teapot\r\nX-Odd: Yes\r\nContent-Length: 2\r\n\r\n{}")

    thread = threading.Thread(target=serve)
    thread.start()
    reply = http.request(port, "GET", "/")
    thread.join(10)
    listener.close()
    assert (reply.status, reply.headers["x-odd"], reply.json) == (418, "Yes", {})
    with pytest.raises(OSError):
        http.request(free_port(), "GET", "/", timeout=2)
