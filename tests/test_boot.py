"""The appliance comes up, says so, and says what it is."""

import uuid

from mote import http

# Generous for an emulated machine on two busy cores; a hang is beyond it, a slow day is not.
READY_LIMIT_MS = 60_000


def test_it_is_ready_in_time(box):
    assert box.ready_ms < READY_LIMIT_MS


def test_health_and_readiness_answer_json(box):
    health = box.get("/healthz")
    assert health.status == 200 and health.headers["content-type"].startswith("application/json"), str(health)
    assert health.json["serving"] is True, str(health)
    assert all(part["ok"] for part in health.json["components"]), str(health)
    ready = box.get("/readyz")
    assert ready.status == 200, str(ready)


def test_status_counts_what_is_there(box):
    status = box.status()
    # The build is part of what a snapshot depends on: without it, another system's snapshots would be restored.
    assert status["version"] and status["build"], status
    uuid.UUID(status["boot_id"])
    census = status["census"]
    # init, hostd; nothing else runs on an appliance without sandboxes but what serves this request.
    assert census["processes"] >= 2 and census["zombies"] == 0, census
    # Besides, a descriptor for every place in tenants' networks.
    places = census["hostd_fds_by_kind"].get("/dev/net/tun", 0)
    assert 10 < census["hostd_fds"] - places < 200, census
    assert census["mounts"] >= 6 and census["network_namespaces"] == 1, census
    assert 0 < census["memory_available_kb"] < census["memory_total_kb"], census


def test_the_data_disk_was_formatted_and_found(box):
    data = box.data_disk()
    assert data["ok"] and "formatted" in data["reason"].lower(), data
    disk = box.status()["data_disk"]
    assert 0 < disk["free_bytes"] < disk["total_bytes"], disk


def test_unknown_paths_and_methods_are_named(box):
    for method, path, status in (("GET", "/nothing-here", 404), ("PATCH", "/2015-03-31/functions", 405)):
        reply = http.request(box.port, method, path)
        assert reply.status == status, f"{method} {path}: {reply}"
        assert reply.headers["x-amzn-errortype"], f"{method} {path}: {reply}"
        assert reply.json["message"], f"{method} {path}: {reply}"


def test_a_head_start_of_garbage_is_survived(box):
    """Bytes that are no HTTP, half a request, a request that never ends: each connection gets an end."""
    import socket

    for garbage in (b"\x00\xff\x16\x03\x01" * 40, b"GET /healthz HTT", b"POST / HTTP/1.1\r\ncontent-length: 99\r\n\r\nx"):
        with socket.create_connection(("127.0.0.1", box.port), timeout=10) as raw:
            raw.sendall(garbage)
            raw.shutdown(socket.SHUT_WR)
            raw.settimeout(20)
            while raw.recv(4096):
                pass
    assert box.get("/healthz").status == 200
