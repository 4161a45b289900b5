"""Tags: kept like Lambda's, and those that say how a function is to be restored."""

import time

from mote import client, packages
from mote.client import invoke, refused

WAIT_S = 60


def arn(lambdas, name):
    return lambdas.get_function(FunctionName=name)["Configuration"]["FunctionArn"]


def snapshot(box, name):
    found = [entry for entry in box.get("/system/snapshots").json["snapshots"] if entry["function"] == name]
    return found[0] if found else None


def test_tags_are_kept_changed_and_checked(lambdas, deploy):
    name = deploy(packages.answering("x"), Tags={"team": "edge", "stage": "test"})
    resource = arn(lambdas, name)
    assert lambdas.get_function(FunctionName=name)["Tags"] == {"team": "edge", "stage": "test"}
    lambdas.tag_resource(Resource=resource, Tags={"stage": "live", "ä": "ö & = ?"})
    assert lambdas.list_tags(Resource=resource)["Tags"] == {"team": "edge", "stage": "live", "ä": "ö & = ?"}
    lambdas.untag_resource(Resource=resource, TagKeys=["team", "ä", "nobody"])
    assert lambdas.list_tags(Resource=resource)["Tags"] == {"stage": "live"}
    for tags, says in (
        ({"mote:restore": "quick"}, "give lazy, cached, reap or faasnap"),
        ({"mote:snapshot": "cold"}, "give init or warm"),
        ({"mote:warmup": "{"}, "no JSON"),
        ({"mote:other": "x"}, "not known"),
        ({f"k{number}": "" for number in range(51)}, "at most 50"),
    ):
        with refused() as refusal:
            lambdas.tag_resource(Resource=resource, Tags=tags)
        assert (refusal[0].status, refusal[0].type) == (400, "InvalidParameterValueException"), refusal
        assert says in refusal[0].message, refusal
    assert lambdas.list_tags(Resource=resource)["Tags"] == {"stage": "live"}
    with refused() as refusal:
        lambdas.list_tags(Resource=resource.replace(name, "nobody"))
    assert (refusal[0].status, refusal[0].type) == (404, "ResourceNotFoundException"), refusal


def test_tags_set_at_once_are_all_kept(box, lambdas, deploy):
    resource = arn(lambdas, deploy(packages.answering("x")))
    client.at_once(box.port, 6, lambda own, number: own.tag_resource(Resource=resource, Tags={f"k{number}": "v"}))
    assert lambdas.list_tags(Resource=resource)["Tags"] == {f"k{number}": "v" for number in range(6)}


def test_a_warm_snapshot_is_made_of_the_wished_call(box, lambdas, deploy):
    """The first call makes the clean snapshot; the wished one is made behind it, recorded, and what it left is what
    further calls find."""
    name = deploy(packages.function("probe"), Tags={
        "mote:snapshot": "warm", "mote:restore": "faasnap", "mote:warmup": '{"op": "echo", "n": 1}',
    })
    assert invoke(lambdas, name, {"op": "echo"}).json["calls"] == 1
    deadline = time.monotonic() + WAIT_S
    while (found := snapshot(box, name)) is None or found["kind"] != "warm":
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    assert found["paging"]["loading_pages"] > 0
    for _ in range(2):
        box.put_away()
        answer = invoke(lambdas, name, {"op": "echo"})
        assert (answer.served_by, answer.json["calls"]) == ("restore", 2), str(answer)
    lines = box.get(f"/system/logs/{name}").text
    assert lines.count("START RequestId") == 4
    # With other tags it is another snapshot.
    lambdas.untag_resource(Resource=arn(lambdas, name), TagKeys=["mote:snapshot", "mote:warmup"])
    answer = invoke(lambdas, name, {"op": "echo"})
    assert (answer.served_by, answer.json["calls"]) == ("cold", 1), str(answer)
