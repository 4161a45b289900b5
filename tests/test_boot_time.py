"""How long a boot takes, beside the least one that this kernel can have on the same emulated machine."""

import re
from statistics import median

from mote import bare
from mote.waiting import until

ROUNDS = 3
# Of a kernel with an init that does nothing: what mounting, network, data disk and hostd may add.
AT_MOST = 2.5
READY = re.compile(r"(?:ready address=\S+|bare) after=([\d.]+)s")


def after(machine) -> float:
    """Seconds from the kernel's start to readiness, as the machine says."""
    found = until(lambda: READY.search(machine.console()), 120)
    assert found, machine.tail()
    return float(found.group(1))


def test_ready_is_no_more_than_two_and_a_half_bare_boots(own_box, tmp_path, record_property):
    archive = bare.initramfs(tmp_path)
    machine = own_box()
    # The first boot formats the data disk, once in a machine's life.
    machine.boot()
    machine.cut_power()
    times = {"bare": [], "ready": []}
    for _ in range(ROUNDS):
        with bare.Bare(archive) as least:
            least.start()
            times["bare"].append(after(least))
        machine.boot()
        times["ready"].append(after(machine))
        machine.cut_power()
    ratio = median(times["ready"]) / median(times["bare"])
    print(f"kernel start to ready / to a bare init: {ratio:.2f} ({times})")
    record_property("ratio", ratio)
    assert ratio <= AT_MOST, times
