"""Calls through boto3: answers, errors, log tails, limits."""

import base64
import json
import threading
import uuid

import pytest
from botocore.exceptions import ClientError
from conftest import make_client


@pytest.fixture(scope="module")
def echo(lambdas):
    lambdas.create_function(
        FunctionName="echo", Runtime="python3.11", Role="r", Handler="app.handler", Code={"ZipFile": b"PK"}, Timeout=2
    )
    yield "echo"
    lambdas.delete_function(FunctionName="echo")


def headers(answer):
    return answer["ResponseMetadata"]["HTTPHeaders"]


def test_a_call_and_its_headers(lambdas, echo):
    answer = lambdas.invoke(FunctionName=echo, Payload=json.dumps({"ä": [1, None]}))
    assert answer["StatusCode"] == 200 and json.loads(answer["Payload"].read()) == {"ä": [1, None]}
    assert answer["ExecutedVersion"] == "$LATEST"
    assert "FunctionError" not in answer and "LogResult" not in answer
    seen = headers(answer)
    assert seen["x-mote-served-by"] == "warm" and seen["content-type"] == "application/json"
    assert seen["x-mote-phases"] == seen["server-timing"] == "wait;dur=1.500, invoke;dur=2.000"
    assert answer["ResponseMetadata"]["RequestId"] == str(uuid.UUID(seen["x-amzn-requestid"]))


def test_no_payload_is_an_empty_object(lambdas, echo):
    assert lambdas.invoke(FunctionName=echo)["Payload"].read() == b"{}"


def test_what_the_platform_gets_to_see(lambdas, echo):
    context = base64.b64encode(json.dumps({"custom": {"who": "Zoë"}}, indent=1).encode()).decode()
    answer = lambdas.invoke(FunctionName=echo, Payload=b'{"describe":1}', ClientContext=context, Qualifier="$LATEST")
    seen = json.loads(answer["Payload"].read())
    assert json.loads(seen.pop("client_context")) == {"custom": {"who": "Zoë"}}
    assert seen == {
        "arn": "arn:aws:lambda:us-east-1:000000000000:function:echo:$LATEST", "qualifier": "$LATEST",
        "request_id": headers(answer)["x-amzn-requestid"], "content_type": "application/json", "start": "Auto", "restore_mode": "None",
        "caller": "AKIDTENANTA", "region": "eu-west-1",
    }


def test_an_error_of_the_function_is_an_answer(lambdas, echo):
    answer = lambdas.invoke(FunctionName=echo, Payload=b'{"fail":"as asked"}')
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert json.loads(answer["Payload"].read())["errorMessage"] == "as asked"
    answer = lambdas.invoke(FunctionName=echo, Payload=b'{"slow":1}')
    assert answer["FunctionError"] == "Unhandled"
    assert json.loads(answer["Payload"].read())["errorMessage"] == "Task timed out after 2.00 seconds"


def test_the_log_tail(lambdas, echo):
    event = {"print": "x" * 9000 + "the end"}
    answer = lambdas.invoke(FunctionName=echo, LogType="Tail", Payload=json.dumps(event))
    tail = base64.b64decode(answer["LogResult"]).decode()
    assert len(tail) == 4096 and tail.splitlines()[0].endswith("xthe end")
    assert tail.splitlines()[1] == f"END RequestId: {headers(answer)['x-amzn-requestid']}"


def test_a_dry_run_runs_nothing(lambdas, echo):
    answer = lambdas.invoke(FunctionName=echo, InvocationType="DryRun", Payload=b'{"sleep_ms":9999}')
    assert answer["StatusCode"] == 204 and answer["Payload"].read() == b""


def test_what_is_refused(lambdas, echo):
    with pytest.raises(lambdas.exceptions.InvalidRequestContentException, match="Could not parse request body into json: "):
        lambdas.invoke(FunctionName=echo, Payload=b"{'a': 1}")
    with pytest.raises(lambdas.exceptions.InvalidRequestContentException, match="Client-Context"):
        lambdas.invoke(FunctionName=echo, ClientContext="?")
    with pytest.raises(lambdas.exceptions.InvalidParameterValueException, match="not supported yet"):
        lambdas.invoke(FunctionName=echo, InvocationType="Event")
    with pytest.raises(lambdas.exceptions.ResourceNotFoundException, match="echo:7"):
        lambdas.invoke(FunctionName=echo, Qualifier="7")


def test_the_limit_of_an_event(lambdas, echo):
    largest = b'"' + b"x" * (6 * 1024 * 1024 - 2) + b'"'
    assert lambdas.invoke(FunctionName=echo, Payload=largest)["Payload"].read() == largest
    for more in (1, 8 << 20, 60 << 20):
        with pytest.raises(lambdas.exceptions.RequestTooLargeException) as caught:
            lambdas.invoke(FunctionName=echo, Payload=largest[:-1] + b"x" * more + b'"')
        error = caught.value.response
        assert error["ResponseMetadata"]["HTTPStatusCode"] == 413
        assert f"{len(largest) + more} byte payload is too large" in error["Error"]["Message"]


def test_too_many_at_once(echo):
    """Four fit; the fifth is told when to come back, and a client that retries gets through."""
    inside, outcomes = make_client(), []

    def call():
        outcomes.append(inside.invoke(FunctionName=echo, Payload=b'{"sleep_ms":1500}')["StatusCode"])

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    refused = None
    for _ in range(100):
        try:
            make_client().invoke(FunctionName=echo)
        except ClientError as error:
            refused = error
            break
    assert type(refused).__name__ == "TooManyRequestsException"
    assert refused.response["retryAfterSeconds"] == "2"
    assert refused.response["Reason"] == "ConcurrentInvocationLimitExceeded"
    assert make_client(attempts=8).invoke(FunctionName=echo)["StatusCode"] == 200
    for thread in threads:
        thread.join()
    assert outcomes == [200] * 4


def test_the_model_knows_our_errors(lambdas):
    """Type names and statuses are Lambda's own, except where this machine has to say something else."""
    from botocore.httpsession import URLLib3Session
    from botocore.awsrequest import AWSRequest
    from conftest import URL

    shapes = {shape.name: shape for shape in lambdas.meta.service_model.error_shapes}

    def send(method, path, body=b""):
        return URLLib3Session().send(AWSRequest(method, URL + path, data=body).prepare())

    for method, path, body, name in (
        ("GET", "/2015-03-31/functions/nobody", b"", "ResourceNotFoundException"),
        ("GET", "/2015-03-31/functions/a.b", b"", "InvalidParameterValueException"),
        ("POST", "/2015-03-31/functions/a/invocations", b"{", "InvalidRequestContentException"),
        ("POST", "/2015-03-31/functions/a/invocations", bytes(7 << 20), "RequestTooLargeException"),
    ):
        answer = send(method, path, body)
        assert answer.headers["x-amzn-errortype"] == name
        assert answer.status_code == shapes[name].metadata["error"]["httpStatusCode"]
        fields = json.loads(answer.content)
        assert set(fields) == set(shapes[name].members), name
        assert fields["Type"] == "User"
