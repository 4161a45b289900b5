"""Without a usable data disk or with a wrong setting the appliance still comes up, answers, and says what is wrong."""

import pytest

from mote import client, packages
from mote.client import refused


def expect_refusals(box):
    health = box.get("/healthz")
    assert health.status == 200, str(health)
    assert any("disk" in part["reason"].lower() and not part["ok"] for part in health.json["components"]), str(health)
    assert box.get("/readyz").status == 503
    lambdas = client.lambda_client(box.port)
    with refused() as refusal:
        client.create(lambdas, "homeless", packages.answering("x"))
    assert refusal[0].status == 507 and "disk" in refusal[0].message.lower(), refusal


def test_no_data_disk(own_box):
    box = own_box(no_data=True)
    box.start()
    box.wait_ready(path="/healthz")
    expect_refusals(box)


@pytest.mark.parametrize("damage", ["file system", "all of it"])
def test_a_data_disk_that_is_damaged_beyond_repair(own_box, damage):
    """What might hold somebody's functions is never formatted."""
    box = own_box(data_mb=256)
    box.boot()
    box.press_power_button()
    box.wait_off()
    before = box.data.stat().st_size
    with open(box.data, "r+b") as disk:
        # The file system begins at 1 MiB, its copies of the superblock every 128 MiB or less.
        disk.seek(1 << 20)
        disk.write(b"\xa5" * ((240 << 20) if damage == "all of it" else (1 << 20)))
    box.start()
    box.wait_ready(path="/healthz")
    if box.get("/readyz").status == 200:
        # Repaired from what was left: as good.
        assert damage == "file system", box.tail()
        assert "checked" in box.data_disk()["reason"].lower(), box.tail()
    else:
        expect_refusals(box)
    assert box.data.stat().st_size == before


def test_mistyped_settings(own_box):
    box = own_box(options={"sandbox.idel_timeout_s": 5, "sandbox.boot_timeout_s": 44, "sandbox.queue_s": "soon"})
    box.boot()
    reasons = " ".join(part["reason"] for part in box.get("/healthz").json["components"] if not part["ok"])
    assert "mote.sandbox.idel_timeout_s" in reasons and "mote.sandbox.queue_s=soon" in reasons, reasons
    assert "boot_timeout_s" not in reasons, reasons
    lambdas = client.lambda_client(box.port)
    client.create(lambdas, "works", packages.answering("works"))
    assert client.invoke(lambdas, "works", {}).json["code"] == "works"
