"""Counts of everything that could leak, before and after."""

import time

from . import client

# Not one more than before. Fewer is no leak: a connection of before may have ended meanwhile.
EXACT = ("processes", "zombies", "hostd_fds", "mounts", "network_namespaces", "run_files", "staged_files")
# A service's heap settles, caches fill; what leaks sandboxes or packages is beyond this.
MEMORY_SLACK_KB = 40 * 1024
SETTLE_S = 20


def take(box) -> dict:
    """The counts now, with all idle sandboxes put away and no connection of any client of the tests."""
    client.hang_up()
    box.put_away()
    status = box.status()
    census = dict(status["census"])
    census["sandboxes"] = len(box.get("/system/sandboxes").json)
    return census


def difference(before: dict, after: dict) -> dict:
    """What there is more of, and memory if it is less: `{field: (before, after)}`."""
    wrong = {key: (before[key], after[key]) for key in (*EXACT, "sandboxes") if after[key] > before[key]}
    if "hostd_fds" in wrong:
        kinds = [census["hostd_fds_by_kind"] for census in (before, after)]
        counts = {kind: tuple(count.get(kind, 0) for count in kinds) for kind in sorted({**kinds[0], **kinds[1]})}
        wrong["hostd_fds_by_kind"] = {kind: count for kind, count in counts.items() if count[0] != count[1]}
    lost = before["memory_available_kb"] - after["memory_available_kb"]
    if lost > MEMORY_SLACK_KB:
        wrong["memory_available_kb"] = (before["memory_available_kb"], after["memory_available_kb"])
    return wrong


def assert_unchanged(box, before: dict) -> None:
    """Fails when something is still there that was not before. What ends by itself gets a moment to do so."""
    deadline = time.monotonic() + SETTLE_S
    wrong = difference(before, take(box))
    while wrong and time.monotonic() < deadline:
        time.sleep(0.5)
        wrong = difference(before, take(box))
    assert not wrong, f"More than before (before, after): {wrong}"
