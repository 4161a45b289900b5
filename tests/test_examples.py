"""The examples themselves, without an appliance: the package is whole, the answers are right."""

import importlib.util
import io
import json
import subprocess
import sys
import zipfile

import pytest

from mote import airports, packages


class Context:
    function_name = "example"
    aws_request_id = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    with zipfile.ZipFile(io.BytesIO(packages.example("report"))) as archive:
        archive.extractall(folder)
    return folder


def test_hello_greets_by_event_by_query_and_by_default():
    spec = importlib.util.spec_from_file_location("hello", packages.EXAMPLES / "hello-python" / "handler.py")
    hello = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hello)
    for event, name in (
        ({"name": "Ada"}, "Ada"),
        ({"queryStringParameters": {"name": "Bob"}}, "Bob"),
        ({}, "world"),
        ([1, 2], "world"),
    ):
        answer = hello.handler(event, Context)
        assert answer == {
            "message": f"Hello, {name}!", "function": "example", "request_id": Context.aws_request_id
        }


@pytest.mark.parametrize(
    "wishes",
    [{}, {"state": "TX", "sort": "city"}, {"sort": "latitude", "limit": 7, "descending": True}, {"state": "ZZ"}],
    ids=str,
)
def test_report_shows_the_csv(unpacked, wishes):
    # In a process of its own: as in the microVM, nothing but the package is there to import.
    program = "import json, sys, handler; json.dump(handler.handler(json.load(sys.stdin), None), sys.stdout)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], input=json.dumps(wishes), cwd=unpacked,
        capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 0, done.stderr
    airports.check(json.loads(done.stdout), **wishes)


def test_the_checksum_notices_a_changed_cell_and_a_lost_row():
    rows = airports.expected(limit=5)
    changed = [list(row) for row in rows]
    changed[3][1] += "x"
    assert airports.checksum(changed) != airports.checksum(rows)
    assert airports.checksum(rows[:-1]) != airports.checksum(rows)
    page = "<table>" + "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in changed) + "</table>"
    with pytest.raises(AssertionError):
        airports.check_page(page, limit=5)


def test_report_refuses_what_makes_no_sense(unpacked):
    program = (
        "import json, handler\n"
        "print(json.dumps([handler.handler(e, None) for e in ({'sort': 'colour'}, {'limit': 'many'}, {'limit': -1})]))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=unpacked, capture_output=True, text=True, timeout=60, check=True
    )
    for answer, word in zip(json.loads(done.stdout), ("colour", "many", "-1")):
        assert answer["statusCode"] == 400 and word in answer["body"], answer


def test_the_package_is_the_same_bytes_each_time_and_has_byte_code():
    first = packages.example("report")
    packages.example.cache_clear()
    assert packages.example("report") == first
    names = zipfile.ZipFile(io.BytesIO(first)).namelist()
    assert "handler.py" in names and "chameleon/__init__.py" in names and "airports.csv" in names
    assert any(name.startswith("chameleon/__pycache__/") for name in names)
    assert not any(name.startswith(("bin/", "/")) or ".." in name for name in names)
