"""A full data disk: deploys are refused with 507, everything else goes on, and deleting makes room."""

import os
import time

from mote import client, packages
from mote.client import invoke, refused

# The smallest on which a snapshot has room beside a few packages: every package more takes its time to arrive.
DISK_MB = 224
PACKAGE_MB = 12
SETTLE_S = 30


def incompressible() -> bytes:
    return packages.zip_of(
        {"handler.py": "def handler(event, context):\n    return 'bulky'\n", "bulk.bin": os.urandom(PACKAGE_MB << 20)},
        compression=0,
    )


def test_a_full_disk_refuses_deploys_and_nothing_else(own_box):
    box = own_box(data_mb=DISK_MB)
    box.boot()
    lambdas = client.lambda_client(box.port)
    client.create(lambdas, "resident", packages.answering("resident"))
    assert invoke(lambdas, "resident", {}).served_by == "cold"

    deployed = []
    refusal = None
    for number in range(DISK_MB // PACKAGE_MB + 1):
        try:
            client.create(lambdas, f"bulky-{number}", incompressible())
            deployed.append(f"bulky-{number}")
        except lambdas.exceptions.ClientError:
            with refused() as caught:
                client.create(lambdas, f"bulky-{number}", incompressible())
            refusal = caught[0]
            break
    assert refusal is not None, f"{len(deployed)} packages of {PACKAGE_MB} MiB went onto {DISK_MB} MiB"
    assert len(deployed) >= 5, deployed
    assert (refusal.status, refusal.type) == (507, "CodeStorageExceededException"), refusal
    assert "delete" in refusal.message.lower(), refusal

    # All that was there is there and answers, also what has to be booted without room for a snapshot.
    names = {function["FunctionName"] for function in lambdas.list_functions(MaxItems=50)["Functions"]}
    assert names == {"resident", *deployed}
    assert invoke(lambdas, "resident", {}).json["code"] == "resident"
    assert invoke(lambdas, deployed[-1], {}).json == "bulky"
    box.put_away()
    assert invoke(lambdas, "resident", {}).json["code"] == "resident"
    # New code for what is there is a deploy as well: refused, and the old code stays.
    with refused() as caught:
        lambdas.update_function_code(FunctionName="resident", ZipFile=incompressible())
    assert caught[0].status == 507, caught
    assert invoke(lambdas, "resident", {}).json["code"] == "resident"
    assert box.get("/healthz").status == 200

    # A power cut on a full disk loses nothing either.
    box.cut_power()
    box.boot()
    names = {function["FunctionName"] for function in lambdas.list_functions(MaxItems=50)["Functions"]}
    assert names == {"resident", *deployed}

    for name in deployed[1:]:
        lambdas.delete_function(FunctionName=name)
    client.create(lambdas, "late", incompressible())
    assert invoke(lambdas, "late", {}).json == "bulky"
    # Snapshots are made again.
    invoke(lambdas, "resident", {})
    box.put_away()
    answer = invoke(lambdas, "resident", {})
    assert (answer.json["code"], answer.served_by) == ("resident", "restore")
    # What is made behind an answer is staged for a while.
    deadline = time.monotonic() + SETTLE_S
    while staged := box.status()["census"]["staged_files"]:
        assert time.monotonic() < deadline, f"{staged} files are staged still"
        time.sleep(0.5)
