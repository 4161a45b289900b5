"""Reserved and provisioned concurrency through boto3."""

import datetime
import time

import pytest
from conftest import CODE

LATEST = "$LATEST"


def test_what_is_reserved_is_shown_and_removed(lambdas, create):
    name = create()["FunctionName"]
    assert "Concurrency" not in lambdas.get_function(FunctionName=name)
    assert "ReservedConcurrentExecutions" not in lambdas.get_function_concurrency(FunctionName=name)
    for reserved in (3, 0):
        answer = lambdas.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=reserved)
        assert (answer["ResponseMetadata"]["HTTPStatusCode"], answer["ReservedConcurrentExecutions"]) == (200, reserved)
        assert lambdas.get_function_concurrency(FunctionName=name)["ReservedConcurrentExecutions"] == reserved
        assert lambdas.get_function(FunctionName=name)["Concurrency"] == {"ReservedConcurrentExecutions": reserved}
    for _ in range(2):
        answer = lambdas.delete_function_concurrency(FunctionName=name)
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert "Concurrency" not in lambdas.get_function(FunctionName=name)
    for attempt in (lambdas.get_function_concurrency, lambdas.delete_function_concurrency):
        with pytest.raises(lambdas.exceptions.InvalidParameterValueException, match="leave the qualifier out"):
            attempt(FunctionName=f"{name}:{LATEST}")
        with pytest.raises(lambdas.exceptions.ResourceNotFoundException):
            attempt(FunctionName="nobody")


def test_what_is_provisioned_comes_up(lambdas, create):
    name = create()["FunctionName"]
    version = {"FunctionName": name, "Qualifier": LATEST}
    with pytest.raises(lambdas.exceptions.ProvisionedConcurrencyConfigNotFoundException, match=name) as caught:
        lambdas.get_provisioned_concurrency_config(**version)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404
    assert lambdas.list_provisioned_concurrency_configs(FunctionName=name)["ProvisionedConcurrencyConfigs"] == []
    made = lambdas.put_provisioned_concurrency_config(**version, ProvisionedConcurrentExecutions=2)
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert (made["RequestedProvisionedConcurrentExecutions"], made["Status"]) == (2, "IN_PROGRESS")
    changed = datetime.datetime.strptime(made["LastModified"], "%Y-%m-%dT%H:%M:%S.%f%z")
    assert abs((datetime.datetime.now(datetime.timezone.utc) - changed).total_seconds()) < 60
    while (shown := lambdas.get_provisioned_concurrency_config(**version))["Status"] == "IN_PROGRESS":
        time.sleep(0.1)
    assert (shown["Status"], shown["AvailableProvisionedConcurrentExecutions"]) == ("READY", 2)
    assert shown["AllocatedProvisionedConcurrentExecutions"] == 2 and "StatusReason" not in shown
    pages = lambdas.get_paginator("list_provisioned_concurrency_configs").paginate(FunctionName=name, MaxItems=1)
    listed = [entry for page in pages for entry in page["ProvisionedConcurrencyConfigs"]]
    arns = [entry.pop("FunctionArn") for entry in listed]
    assert arns == [f"arn:aws:lambda:us-east-1:000000000000:function:{name}:{LATEST}"]
    shown.pop("ResponseMetadata")
    assert listed == [shown]
    for _ in range(2):
        answer = lambdas.delete_provisioned_concurrency_config(**version)
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    with pytest.raises(lambdas.exceptions.ProvisionedConcurrencyConfigNotFoundException):
        lambdas.get_provisioned_concurrency_config(**version)


def test_what_does_not_come_up_says_why(lambdas, create):
    version = {"FunctionName": create()["FunctionName"], "Qualifier": LATEST}
    lambdas.put_provisioned_concurrency_config(**version, ProvisionedConcurrentExecutions=5)
    while (shown := lambdas.get_provisioned_concurrency_config(**version))["Status"] == "IN_PROGRESS":
        time.sleep(0.1)
    assert (shown["Status"], shown["StatusReason"]) == ("FAILED", "They crash")


@pytest.mark.parametrize("qualifier", ["1", "live"])
def test_other_versions_are_not_there(lambdas, create, qualifier):
    version = {"FunctionName": create()["FunctionName"], "Qualifier": qualifier}
    for attempt in (
        lambda: lambdas.get_provisioned_concurrency_config(**version),
        lambda: lambdas.put_provisioned_concurrency_config(**version, ProvisionedConcurrentExecutions=1),
        lambda: lambdas.delete_provisioned_concurrency_config(**version),
    ):
        with pytest.raises(lambdas.exceptions.ResourceNotFoundException, match=f":{qualifier}"):
            attempt()


def test_the_account_tells_limits_and_usage(lambdas, create):
    before = lambdas.get_account_settings()
    name = create()["FunctionName"]
    lambdas.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    after = lambdas.get_account_settings()
    limit, usage = after["AccountLimit"], after["AccountUsage"]
    assert limit["UnreservedConcurrentExecutions"] == before["AccountLimit"]["UnreservedConcurrentExecutions"] - 1
    assert limit["CodeSizeZipped"] == 50 << 20 and set(limit) == {
        "TotalCodeSize", "CodeSizeUnzipped", "CodeSizeZipped", "ConcurrentExecutions", "UnreservedConcurrentExecutions",
    }
    assert usage["FunctionCount"] == before["AccountUsage"]["FunctionCount"] + 1
    assert usage["TotalCodeSize"] == before["AccountUsage"]["TotalCodeSize"] + len(CODE)
