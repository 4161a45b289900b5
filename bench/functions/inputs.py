"""What the functions of the benchmarks have in common: sizes from functions.toml, seeded content, one form of answer.

Bundled into every package. Content depends on the event alone, so that an answer is the same wherever it is made.
"""

import hashlib
import random
import tomllib
from pathlib import Path

with open(Path(__file__).with_name("functions.toml"), "rb") as file:
    TABLE = tomllib.load(file)


def size(function, event):
    """How large the event's input is, in the function's unit."""
    return max(1, round(TABLE[function][event["input"].lower()] * event.get("scale", 1)))


def content(event):
    """A generator of its own for this input: A and B have nothing in common, nor has A with another `variant` of it."""
    return random.Random(f"{event['input']} {float(event.get('scale', 1))} {event.get('variant', 0)}")


def answer(function, event, count, data):
    """A small answer that two ways of running the same function must agree on."""
    return {
        "function": function,
        "input": event["input"],
        "count": count,
        "digest": hashlib.sha256(data).hexdigest()[:16],
    }
