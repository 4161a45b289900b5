"""Functions through boto3: made, seen, listed, changed, deleted; what a change means for the next call."""

import base64
import hashlib

import pytest

from mote import client, packages
from mote.client import invoke, refused


def digest(code: bytes) -> str:
    return base64.b64encode(hashlib.sha256(code).digest()).decode()


def test_create_says_what_was_made(lambdas, deploy):
    code = packages.answering("one")
    name = deploy(code, name="create-me_1", Description="a test", Timeout=7, MemorySize=192,
                  Environment={"Variables": {"VALUE": "v"}})
    shown = lambdas.get_function_configuration(FunctionName=name)
    assert shown["FunctionName"] == name
    assert shown["FunctionArn"].endswith(f":function:{name}")
    assert (shown["Runtime"], shown["Handler"], shown["Role"]) == (client.RUNTIME, "handler.handler", client.ROLE)
    assert (shown["CodeSize"], shown["CodeSha256"]) == (len(code), digest(code))
    assert (shown["Description"], shown["Timeout"], shown["MemorySize"]) == ("a test", 7, 192)
    assert shown["Environment"] == {"Variables": {"VALUE": "v"}}
    assert (shown["State"], shown["LastUpdateStatus"]) == ("Active", "Successful")
    assert (shown["Version"], shown["PackageType"], shown["Architectures"]) == ("$LATEST", "Zip", ["x86_64"])
    assert shown["RevisionId"] and shown["LastModified"]
    whole = lambdas.get_function(FunctionName=name)
    whole["Configuration"].pop("ResponseMetadata", None)
    shown.pop("ResponseMetadata")
    assert whole["Configuration"] == shown
    assert invoke(lambdas, name, {}).json == {"code": "one", "config": "v"}


def test_waiters_see_it_active_and_updated(lambdas, deploy):
    name = deploy(packages.answering("waiter"))
    for waiter in ("function_exists", "function_active_v2", "function_updated_v2"):
        lambdas.get_waiter(waiter).wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 5})


def test_list_shows_every_function_once_over_pages(lambdas, deploy):
    code = packages.answering("listed")
    names = {deploy(code, name=f"list-{letter}") for letter in "ACbd0"}
    pages = list(lambdas.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 2}))
    assert all(len(page["Functions"]) <= 2 for page in pages) and len(pages) > 2
    listed = [function["FunctionName"] for page in pages for function in page["Functions"]]
    assert len(listed) == len(set(listed))
    assert names <= set(listed)
    once = [function["FunctionName"] for function in lambdas.list_functions(MaxItems=50)["Functions"]]
    assert once == listed


def test_new_code_answers_and_the_old_never_again(box, lambdas, deploy):
    name = deploy(packages.answering("old"))
    before = lambdas.get_function_configuration(FunctionName=name)
    assert invoke(lambdas, name, {}).json["code"] == "old"
    code = packages.answering("new")
    updated = lambdas.update_function_code(FunctionName=name, ZipFile=code)
    assert updated["CodeSha256"] == digest(code)
    assert updated["RevisionId"] != before["RevisionId"]
    # The idle sandbox and the snapshot are of the old code: neither may answer.
    for way in ("cold", "warm", "restore"):
        if way == "restore":
            box.put_away()
        answer = invoke(lambdas, name, {})
        assert (answer.json["code"], answer.served_by) == ("new", way)


def test_a_dry_run_of_new_code_checks_and_changes_nothing(lambdas, deploy):
    name = deploy(packages.answering("stays"))
    before = lambdas.get_function_configuration(FunctionName=name)
    lambdas.update_function_code(FunctionName=name, ZipFile=packages.answering("dry"), DryRun=True)
    with refused() as refusal:
        lambdas.update_function_code(FunctionName=name, ZipFile=b"no zip at all", DryRun=True)
    assert refusal[0].status == 400
    after = lambdas.get_function_configuration(FunctionName=name)
    assert (after["CodeSha256"], after["RevisionId"]) == (before["CodeSha256"], before["RevisionId"])


def test_refused_new_code_leaves_the_old_in_place(lambdas, deploy):
    name = deploy(packages.answering("kept"))
    with refused() as refusal:
        lambdas.update_function_code(FunctionName=name, ZipFile=packages.zip_of({"other.py": "x = 1"}))
    assert refusal[0].status == 400 and "handler" in refusal[0].message
    assert invoke(lambdas, name, {}).json["code"] == "kept"


def test_an_old_revision_changes_nothing(lambdas, deploy):
    name = deploy(packages.answering("first"))
    revision = lambdas.get_function_configuration(FunctionName=name)["RevisionId"]
    lambdas.update_function_configuration(FunctionName=name, Description="newer", RevisionId=revision)
    for change in (
        lambda: lambdas.update_function_configuration(FunctionName=name, Description="stale", RevisionId=revision),
        lambda: lambdas.update_function_code(
            FunctionName=name, ZipFile=packages.answering("stale"), RevisionId=revision
        ),
    ):
        with refused() as refusal:
            change()
        assert (refusal[0].status, refusal[0].type) == (412, "PreconditionFailedException")
    shown = lambdas.get_function_configuration(FunctionName=name)
    assert (shown["Description"], shown["CodeSha256"]) == ("newer", digest(packages.answering("first")))


def test_new_configuration_is_in_effect_at_the_next_call(lambdas, deploy):
    name = deploy(packages.function("probe"), Environment={"Variables": {"COLOUR": "red"}}, MemorySize=128)
    seen = invoke(lambdas, name, {"op": "describe"}).json
    assert seen["environment"]["COLOUR"] == "red" and seen["memory"] == "128"
    lambdas.update_function_configuration(
        FunctionName=name, Environment={"Variables": {"SHAPE": "round"}}, MemorySize=256, Timeout=5
    )
    after = invoke(lambdas, name, {"op": "describe"}).json
    assert after["environment"]["SHAPE"] == "round" and "COLOUR" not in after["environment"]
    assert after["memory"] == "256" and after["environment"]["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "256"
    # Not only said: the machine has it.
    assert after["mem_total_kb"] - seen["mem_total_kb"] > 100 * 1024
    assert after["remaining_ms"] <= 6000


def test_a_new_timeout_keeps_the_snapshot_and_holds(box, lambdas, deploy):
    name = deploy(packages.function("probe"), Timeout=30)
    assert invoke(lambdas, name, {"op": "echo"}).served_by == "cold"
    lambdas.update_function_configuration(FunctionName=name, Timeout=1)
    box.put_away()
    answer = invoke(lambdas, name, {"op": "sleep", "seconds": 20})
    assert (answer.served_by, answer.error) == ("restore", "Unhandled")
    assert "Task timed out after 1.00 seconds" in answer.json["errorMessage"]


def test_deleted_is_gone_and_its_name_is_free(lambdas, deploy):
    name = deploy(packages.answering("before"))
    assert invoke(lambdas, name, {}).json["code"] == "before"
    assert lambdas.delete_function(FunctionName=name)["ResponseMetadata"]["HTTPStatusCode"] == 204
    for attempt in (
        lambda: lambdas.get_function(FunctionName=name),
        lambda: invoke(lambdas, name, {}),
        lambda: lambdas.delete_function(FunctionName=name),
        lambda: lambdas.update_function_code(FunctionName=name, ZipFile=packages.answering("x")),
        lambda: lambdas.update_function_configuration(FunctionName=name, Timeout=9),
    ):
        with refused() as refusal:
            attempt()
        assert (refusal[0].status, refusal[0].type) == (404, "ResourceNotFoundException")
        assert name in refusal[0].message
    assert name not in [f["FunctionName"] for f in lambdas.list_functions(MaxItems=50)["Functions"]]
    deploy(packages.answering("after"), name=name)
    answer = invoke(lambdas, name, {})
    assert (answer.json["code"], answer.served_by) == ("after", "cold")


def test_a_name_is_taken_once(lambdas, deploy):
    name = deploy(packages.answering("taken"))
    with refused() as refusal:
        client.create(lambdas, name, packages.answering("other"))
    assert (refusal[0].status, refusal[0].type) == (409, "ResourceConflictException")
    assert name in refusal[0].message
    assert invoke(lambdas, name, {}).json["code"] == "taken"


def test_two_deploys_of_one_name_at_once_have_one_winner(box, lambdas, nothing_leaks):
    name = "race"

    def deploy(own, number):
        # Enough work that the deploys overlap.
        code = packages.source(
            f"def handler(event, context):\n    return {number}\n", **{"padding.bin": bytes(range(256)) * 16_000}
        )
        try:
            client.create(own, name, code)
        except own.exceptions.ClientError as error:
            return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
        return "created"

    try:
        outcomes = client.at_once(box.port, 4, deploy)
        assert outcomes.count("created") == 1, outcomes
        assert set(outcomes) == {"created", (409, "ResourceConflictException")}, outcomes
        assert invoke(lambdas, name, {}).json == outcomes.index("created")
    finally:
        lambdas.delete_function(FunctionName=name)


@pytest.mark.parametrize("form", ["arn", "partial", "qualified"])
def test_functions_are_found_by_arn(lambdas, probe, form):
    arn = lambdas.get_function_configuration(FunctionName=probe)["FunctionArn"]
    name = {"arn": arn, "partial": arn.split(":")[4] + f":function:{probe}", "qualified": probe}[form]
    options = {"Qualifier": "$LATEST"} if form == "qualified" else {}
    answer = invoke(lambdas, name, {"op": "echo", "n": form}, **options)
    assert answer.error is None and answer.json["event"]["n"] == form


def test_a_version_that_is_not_there_is_not_found(lambdas, probe):
    with refused() as refusal:
        invoke(lambdas, probe, {}, Qualifier="7")
    assert (refusal[0].status, refusal[0].type) == (404, "ResourceNotFoundException")
    assert "7" in refusal[0].message
