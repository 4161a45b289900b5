"""Waiting for what comes true by itself."""

import time

STEP_S = 0.1


def until(what, limit_s: float = 30):
    """Asks `what()` again and again until it gives something true, at most so long; what it gave last."""
    deadline = time.monotonic() + limit_s
    while not (value := what()) and time.monotonic() < deadline:
        time.sleep(STEP_S)
    return value
