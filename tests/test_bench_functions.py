"""The benchmarks' functions themselves, without an appliance: packages fit, answers have one form and can be repeated."""

import json
import subprocess
import sys
import tomllib

import pytest

from mote import packages

with open(packages.BENCHMARKS / "functions.toml", "rb") as file:
    TABLE = tomllib.load(file)
EVENTS = [
    {"input": "A"},
    {"input": "B", "scale": 1},
    {"input": "A", "scale": 1.0},
    {"input": "A", "scale": 0.25},
]
# What Lambda takes as a zip in a request.
UPLOAD_LIMIT = 50 << 20


def test_the_table_names_every_folder():
    folders = {path.parent.name for path in packages.BENCHMARKS.glob("*/handler.py")}
    assert folders == set(TABLE)
    for name, row in TABLE.items():
        assert row["a"] <= row["b"] and row["memory_mb"] >= 128, name


def natively(name: str, folder, events: list) -> list:
    """The answers of the packaged function, run as the benchmarks run their reference."""
    package = folder / "package.zip"
    package.write_bytes(packages.benchmark(name))
    assert package.stat().st_size < UPLOAD_LIMIT
    done = subprocess.run(
        [sys.executable, str(packages.BENCHMARKS / "native.py"), str(package), *map(json.dumps, events)],
        cwd=folder, capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(events)
    return answers


@pytest.mark.parametrize("name", TABLE)
def test_a_function_answers_the_same_again_and_differs_by_input(name, tmp_path):
    answers = natively(name, tmp_path, EVENTS)
    for event, answer in zip(EVENTS, answers):
        assert answer.keys() == {"function", "input", "count", "digest"}
        assert (answer["function"], answer["input"]) == (name, event["input"])
        assert isinstance(answer["count"], int) and answer["count"] > 0
    a, b, again, _ = answers
    assert a == again
    assert name == "hello" or a["digest"] != b["digest"]


@pytest.mark.parametrize("name", ["chameleon", "image", "json"])
def test_the_scale_is_one_of_the_work(name, tmp_path):
    answers = natively(name, tmp_path, [{"input": "A", "scale": scale} for scale in (0.25, 0.5, 1, 2, 4)])
    counts = [answer["count"] for answer in answers]
    for smaller, larger in zip(counts, counts[1:]):
        assert 1.5 < larger / smaller < 2.5, counts
