"""How many calls of a function at once: what is reserved for it and bounds it, and what is always there of it."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mote import client, http, packages
from mote.client import create, invoke, refused
from mote.waiting import until

IDLE_S = 6
LATEST = "$LATEST"
# A function's first start and snapshot, under emulation.
UP_S = 90
# The same from its snapshot.
BACK_S = 30

TURNS = """
import time

CALLS = 0

def handler(event, context):
    global CALLS
    CALLS += 1
    began = time.time()
    time.sleep(event.get("seconds", 0))
    return {"calls": CALLS, "began": began, "ended": time.time()}
"""
BROKEN = "raise ValueError('broken as asked')\n\ndef handler(event, context):\n    return None\n"


@pytest.fixture(scope="module")
def machine(module_box):
    made = module_box(memory_mb=1024, options={"sandbox.idle_timeout_s": IDLE_S, "scheduling.keep_alive": "fixed"})
    made.boot()
    return made


@pytest.fixture(scope="module")
def lambdas(machine):
    return client.lambda_client(machine.port)


@pytest.fixture
def deployed(lambdas):
    """Deploys functions that are gone after the test."""
    names = []

    def make(name, code=None, **options):
        names.append(name)
        create(lambdas, name, code or packages.source(TURNS), **options)
        return name

    yield make
    for name in names:
        lambdas.delete_function(FunctionName=name)


def sandboxes(machine, name):
    return [one for one in machine.get("/system/sandboxes").json if one["function"].startswith(f"{name}@")]


def settled(lambdas, name, limit_s=UP_S):
    """GetProvisionedConcurrencyConfig once it says something else than that it is at it."""
    def shown():
        answer = lambdas.get_provisioned_concurrency_config(FunctionName=name, Qualifier=LATEST)
        return answer["Status"] != "IN_PROGRESS" and answer

    found = until(shown, limit_s)
    assert found, lambdas.get_provisioned_concurrency_config(FunctionName=name, Qualifier=LATEST)
    return found


def provision(lambdas, name, count):
    return lambdas.put_provisioned_concurrency_config(
        FunctionName=name, Qualifier=LATEST, ProvisionedConcurrentExecutions=count
    )


def assert_refused(attempt, status, kind, *words):
    with refused() as refusal:
        attempt()
    assert (refusal[0].status, refusal[0].type) == (status, kind), refusal
    assert all(word in refusal[0].message for word in words), refusal
    return refusal[0]


def assert_too_much(attempt, *words):
    return assert_refused(attempt, 400, "InvalidParameterValueException", *words)


def test_what_is_reserved_is_kept_and_told(lambdas, deployed):
    name = deployed("told")
    before = lambdas.get_account_settings()
    limit = before["AccountLimit"]
    assert limit["UnreservedConcurrentExecutions"] == limit["ConcurrentExecutions"] > 1
    usage = before["AccountUsage"]
    assert usage["FunctionCount"] >= 1 and 0 < usage["TotalCodeSize"] < limit["TotalCodeSize"]
    revision = lambdas.get_function_configuration(FunctionName=name)["RevisionId"]
    answer = lambdas.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=3)
    assert answer["ReservedConcurrentExecutions"] == 3
    assert lambdas.get_function_configuration(FunctionName=name)["RevisionId"] != revision
    assert lambdas.get_function_concurrency(FunctionName=name)["ReservedConcurrentExecutions"] == 3
    # New code and another configuration leave it as it is.
    lambdas.update_function_code(FunctionName=name, ZipFile=packages.answering("other"))
    lambdas.update_function_configuration(FunctionName=name, MemorySize=192)
    assert lambdas.get_function(FunctionName=name)["Concurrency"] == {"ReservedConcurrentExecutions": 3}
    after = lambdas.get_account_settings()["AccountLimit"]
    assert after["UnreservedConcurrentExecutions"] == limit["UnreservedConcurrentExecutions"] - 3
    most = limit["ConcurrentExecutions"] - 1
    assert_too_much(
        lambda: lambdas.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=most + 1),
        f"at most {most}",
    )
    lambdas.delete_function_concurrency(FunctionName=name)
    assert "Concurrency" not in lambdas.get_function(FunctionName=name)
    assert_refused(
        lambda: lambdas.put_function_concurrency(FunctionName="nobody", ReservedConcurrentExecutions=1),
        404, "ResourceNotFoundException", "nobody",
    )


def test_one_at_a_time_is_one_after_another(machine, lambdas, deployed):
    name = deployed("turns")
    lambdas.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    most, watching = 0, True

    def watch():
        nonlocal most
        while watching:
            most = max(most, len(sandboxes(machine, name)))
            time.sleep(0.05)

    with ThreadPoolExecutor(1) as pool:
        watcher = pool.submit(watch)
        try:
            answers = client.at_once(machine.port, 3, lambda own, number: invoke(own, name, {"seconds": 1.5}))
        finally:
            watching = False
        watcher.result()
    seen = sorted((answer.json for answer in answers), key=lambda one: one["began"])
    assert [one["calls"] for one in seen] == [1, 2, 3]
    assert all(one["ended"] <= other["began"] for one, other in zip(seen, seen[1:], strict=False)), seen
    assert most == 1


def test_a_function_is_shut_off_and_on_again(machine, lambdas, deployed):
    name = deployed("off")
    assert invoke(lambdas, name, {}).json["calls"] == 1
    lambdas.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    path = f"/2015-03-31/functions/{name}/invocations"
    for target in (path, f"/function/{name}"):
        reply = http.request(machine.port, "POST", target, {})
        assert reply.status == 429 and reply.ms < 2000, str(reply)
        assert reply.headers["x-amzn-errortype"] == "TooManyRequestsException" and int(reply.headers["retry-after"]) > 0
        assert reply.json["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded", str(reply)
        assert "reserved concurrency is 0" in reply.json["message"], str(reply)
    with pytest.raises(lambdas.exceptions.TooManyRequestsException):
        invoke(lambdas, name, {})
    assert_too_much(lambda: provision(lambdas, name, 1), "reserved concurrency of 0")
    lambdas.delete_function_concurrency(FunctionName=name)
    assert invoke(lambdas, name, {}).error is None


def test_provisioned_sandboxes_are_always_there(machine, lambdas, deployed):
    name = deployed("ready")
    made = provision(lambdas, name, 2)
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 202 and made["Status"] == "IN_PROGRESS", made
    ready = settled(lambdas, name)
    counts = [ready[f"{what}ProvisionedConcurrentExecutions"] for what in ("Requested", "Allocated", "Available")]
    assert (ready["Status"], counts) == ("READY", [2, 2, 2]) and ready["LastModified"] == made["LastModified"]
    assert [one["provisioned"] for one in sandboxes(machine, name)] == [True, True]
    answer = invoke(lambdas, name, {})
    assert (answer.served_by, answer.json["calls"]) == ("warm", 1), str(answer)
    # Nobody calls, and they stay.
    time.sleep(IDLE_S + 2)
    assert len(sandboxes(machine, name)) == 2
    before = {one["id"] for one in sandboxes(machine, name)}
    machine.put_away()
    assert settled(lambdas, name, BACK_S)["Status"] == "READY"
    now = {one["id"] for one in sandboxes(machine, name)}
    assert len(now) == 2 and not now & before
    assert invoke(lambdas, name, {}).served_by == "warm"
    # More of them from where they are; none that is not wanted.
    provision(lambdas, name, 1)
    assert settled(lambdas, name, BACK_S)["AvailableProvisionedConcurrentExecutions"] == 1
    assert until(lambda: len(sandboxes(machine, name)) == 1, IDLE_S + 10)
    lambdas.delete_provisioned_concurrency_config(FunctionName=name, Qualifier=LATEST)
    assert until(lambda: sandboxes(machine, name) == [], IDLE_S + 10)
    assert_refused(
        lambda: lambdas.get_provisioned_concurrency_config(FunctionName=name, Qualifier=LATEST),
        404, "ProvisionedConcurrencyConfigNotFoundException", name,
    )


def test_what_is_provisioned_is_of_the_newest_code_and_says_why_it_is_not_there(machine, lambdas, deployed):
    name = deployed("changing", packages.source(BROKEN))
    provision(lambdas, name, 1)
    failed = settled(lambdas, name)
    assert failed["Status"] == "FAILED" and "initialisation failed" in failed["StatusReason"], failed
    assert failed["AvailableProvisionedConcurrentExecutions"] == 0
    lambdas.update_function_code(FunctionName=name, ZipFile=packages.answering("mended"))
    assert settled(lambdas, name)["Status"] == "READY"
    answer = invoke(lambdas, name, {})
    assert (answer.json["code"], answer.served_by) == ("mended", "warm"), str(answer)
    lambdas.update_function_configuration(FunctionName=name, Environment={"Variables": {"VALUE": "new"}})
    assert settled(lambdas, name)["Status"] == "READY"
    answer = invoke(lambdas, name, {})
    assert (answer.json, answer.served_by) == ({"code": "mended", "config": "new"}, "warm"), str(answer)


def test_more_than_there_is_room_for_is_refused_with_the_limit(machine, lambdas, deployed):
    name = deployed("many", MemorySize=256)
    capacity = machine.status()["sandboxes"]["capacity_mb"]
    # A sandbox's monitor takes a little, too.
    most = capacity // (256 + 8)
    said = assert_too_much(lambda: provision(lambdas, name, most + 1), f"at most {most}")
    assert str(capacity) in re.findall(r"\d+", said.message), said
    lambdas.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    assert_too_much(lambda: provision(lambdas, name, 2), "reserved concurrency of 1")
    lambdas.delete_function_concurrency(FunctionName=name)
    provision(lambdas, name, most)
    for change in (
        lambda: lambdas.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=most - 1),
        lambda: lambdas.update_function_configuration(FunctionName=name, MemorySize=capacity // most),
    ):
        assert_too_much(change, "provisioned concurrency", "at most")
    for qualifier in ("1", "live"):
        assert_refused(
            lambda qualifier=qualifier: lambdas.put_provisioned_concurrency_config(
                FunctionName=name, Qualifier=qualifier, ProvisionedConcurrentExecutions=1
            ),
            404, "ResourceNotFoundException", qualifier,
        )
    listed = lambdas.list_provisioned_concurrency_configs(FunctionName=name)["ProvisionedConcurrencyConfigs"]
    assert [entry["FunctionArn"].split(":")[-2:] for entry in listed] == [[name, LATEST]]


def test_it_is_all_as_before_after_a_restart(machine, lambdas, deployed):
    name = deployed("lasting")
    lambdas.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=2)
    provision(lambdas, name, 2)
    before = settled(lambdas, name)
    assert before["Status"] == "READY"
    boot_id = machine.status()["boot_id"]
    assert machine.post("/system/reboot").status == 202

    def restarted():
        try:
            return machine.get("/readyz", timeout=5).status == 200 and machine.status()["boot_id"] != boot_id
        except Exception:  # noqa: BLE001 - it is just going down or coming up
            return False

    assert until(restarted, 120), machine.tail()
    after = settled(lambdas, name)
    for answer in (before, after):
        answer.pop("ResponseMetadata")
    assert after == before
    answer = invoke(lambdas, name, {})
    assert (answer.served_by, answer.json["calls"]) == ("warm", 1), str(answer)
    assert lambdas.get_function_concurrency(FunctionName=name)["ReservedConcurrentExecutions"] == 2


def test_by_the_command_line(machine, deployed):
    name = deployed("by-cli")
    aws = client.command_line(machine.port)
    version = ["--function-name", name, "--qualifier", LATEST]
    aws("put-function-concurrency", "--function-name", name, "--reserved-concurrent-executions", "2")
    assert aws("get-function-concurrency", "--function-name", name) == {"ReservedConcurrentExecutions": 2}
    made = aws("put-provisioned-concurrency-config", *version, "--provisioned-concurrent-executions", "1")
    assert made["RequestedProvisionedConcurrentExecutions"] == 1
    assert until(lambda: aws("get-provisioned-concurrency-config", *version)["Status"] == "READY", UP_S)
    listed = aws("list-provisioned-concurrency-configs", "--function-name", name)
    assert len(listed["ProvisionedConcurrencyConfigs"]) == 1
    said = aws("delete-function-concurrency", "--function-name", "nobody", fails=True)
    assert "ResourceNotFoundException" in said
    aws("delete-provisioned-concurrency-config", *version)
    said = aws("get-provisioned-concurrency-config", *version, fails=True)
    assert "ProvisionedConcurrencyConfigNotFoundException" in said
    aws("delete-function-concurrency", "--function-name", name)
    assert aws("get-account-settings")["AccountUsage"]["FunctionCount"] >= 1
