"""Calls: what a function sees, what its caller gets, what stands in the log."""

import base64
import json
import re

from mote import client, http
from mote.client import invoke

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def test_events_of_every_kind_arrive_as_sent(lambdas, probe):
    for event in (
        {"op": "echo", "nested": {"list": [1, 2.5, None, True, "ü€😀"]}}, [], [1, 2], "text", 7, -0.25, True, None,
    ):
        payload = json.dumps(event).encode()
        answer = client.invoke(lambdas, probe, Payload=payload)
        assert answer.error is None and answer.json["event"] == event, str(answer)


def test_no_payload_is_an_empty_event(lambdas, probe):
    assert invoke(lambdas, probe).json["event"] == {}


def test_a_function_knows_its_surroundings(lambdas, probe):
    answer = invoke(lambdas, probe, {"op": "describe"})
    seen, environment = answer.json, answer.json["environment"]
    assert re.fullmatch(UUID, seen["request_id"])
    assert seen["request_id"] == answer.headers["x-amzn-requestid"]
    assert seen["function_name"] == environment["AWS_LAMBDA_FUNCTION_NAME"] == probe
    assert seen["function_version"] == environment["AWS_LAMBDA_FUNCTION_VERSION"] == "$LATEST"
    assert seen["arn"] == lambdas.get_function_configuration(FunctionName=probe)["FunctionArn"]
    assert seen["memory"] == environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "128"
    assert seen["log_group"] == f"/aws/lambda/{probe}" and seen["log_stream"]
    # The deadline is the host's, the clock the guest's: they differ by some milliseconds.
    assert 0 < seen["remaining_ms"] <= 31_000
    assert environment["COLOUR"] == "blue"
    assert environment["_HANDLER"] == "handler.handler"
    assert environment["LAMBDA_TASK_ROOT"] == "/var/task"
    assert environment["AWS_REGION"] and environment["TZ"] == ":UTC"
    assert seen["python"].startswith("3.11.")


def test_each_call_has_its_own_request_id(lambdas, probe):
    seen = {invoke(lambdas, probe, {"op": "describe"}).json["request_id"] for _ in range(3)}
    assert len(seen) == 3


def test_the_client_context_reaches_the_function(lambdas, deploy):
    from mote import packages

    name = deploy(packages.source("def handler(event, context):\n    return context.client_context.custom\n"))
    context = base64.b64encode(json.dumps({"custom": {"who": "Zoë"}}).encode()).decode()
    assert invoke(lambdas, name, {}, ClientContext=context).json == {"who": "Zoë"}


def test_a_dry_run_says_yes_and_runs_nothing(lambdas, probe):
    before = invoke(lambdas, probe, {"op": "echo"}).json["calls"]
    dry = lambdas.invoke(FunctionName=probe, InvocationType="DryRun")
    assert dry["StatusCode"] == 204 and dry["Payload"].read() == b""
    answer = invoke(lambdas, probe, {"op": "echo"})
    assert (answer.json["calls"], answer.served_by) == (before + 1, "warm")


def test_the_log_tail_has_the_frame_and_the_words(lambdas, probe):
    answer = invoke(lambdas, probe, {"op": "speak", "text": "Grüße"}, tail=True)
    assert answer.json == "spoken"
    request = answer.headers["x-amzn-requestid"]
    lines = answer.log.splitlines()
    assert lines[0] == f"START RequestId: {request} Version: $LATEST"
    assert "Grüße" in lines and "Grüße on stderr" in lines
    assert any("[WARNING]" in line and request in line and "Grüße by logging" in line for line in lines)
    assert f"END RequestId: {request}" in lines
    report = lines[-1]
    assert report.startswith(f"REPORT RequestId: {request}\tDuration: ")
    assert re.search(r"Billed Duration: \d+ ms\tMemory Size: 128 MB\tMax Memory Used: [1-9]\d* MB", report), report


def test_no_tail_unless_asked_for(lambdas, probe):
    assert "x-amz-log-result" not in invoke(lambdas, probe, {"op": "speak", "text": "x"}).headers


def test_the_tail_of_a_flood_is_its_last_four_kilobytes(lambdas, probe):
    answer = invoke(lambdas, probe, {"op": "flood", "lines": 1500}, tail=True)
    assert answer.json == "flooded"
    assert len(answer.log.encode()) <= 4096
    assert "last words" in answer.log and "1499 flood" in answer.log
    assert answer.log.splitlines()[-1].startswith("REPORT RequestId: ")


def test_the_log_of_a_function_can_be_read_later(box, lambdas, probe):
    answer = invoke(lambdas, probe, {"op": "speak", "text": "for later"})
    reply = box.get(f"/system/logs/{probe}?limit=20")
    assert reply.status == 200, str(reply)
    assert "for later" in reply.text and answer.headers["x-amzn-requestid"] in reply.text


def test_answers_of_some_size_are_whole(lambdas, probe):
    size = 5 << 20
    answer = invoke(lambdas, probe, {"op": "big", "bytes": size})
    assert answer.error is None and answer.json == "x" * size


def test_events_of_some_size_are_whole(lambdas, probe):
    event = {"op": "echo", "blob": "äx" * 700_000}
    assert invoke(lambdas, probe, event).json["event"] == event


def test_eight_calls_at_once_each_get_their_own_answer(box, lambdas, probe):
    box.put_away()
    answers = client.at_once(box.port, 8, lambda own, number: invoke(
        own, probe, {"op": "sleep", "seconds": 0.5, "tag": f"call {number}"}
    ))
    for number, answer in enumerate(answers):
        assert answer.error is None and answer.json["tag"] == f"call {number}", str(answer)
    assert len({answer.headers["x-amzn-requestid"] for answer in answers}) == 8
    box.put_away()


def test_a_caller_that_hangs_up_does_not_spoil_the_next_call(box, lambdas, probe):
    import socket

    body = json.dumps({"op": "sleep", "seconds": 3}).encode()
    with socket.create_connection(("127.0.0.1", box.port), timeout=10) as raw:
        raw.sendall(
            f"POST /2015-03-31/functions/{probe}/invocations HTTP/1.1\r\nHost: x\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode() + body
        )
    answer = invoke(lambdas, probe, {"op": "echo", "n": 1})
    assert answer.error is None and answer.json["event"]["n"] == 1


def test_a_signature_is_not_needed(box, probe):
    reply = http.request(box.port, "POST", f"/2015-03-31/functions/{probe}/invocations", {"op": "echo", "n": 5})
    assert reply.status == 200 and reply.json["event"]["n"] == 5
