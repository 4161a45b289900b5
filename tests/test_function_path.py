"""/function/{name}: any method and body, for browsers, curl and webhooks; events as API gateways make them."""

import base64
import json

import pytest

from mote import airports, client, http, packages


ECHO = """
import json

def handler(event, context):
    return {'statusCode': 200, 'headers': {'content-type': 'application/json'}, 'body': json.dumps(event)}
"""


@pytest.fixture(scope="module")
def seen(box, lambdas):
    """Sends a request to a function that answers with the event it got; gives the event."""
    client.create(lambdas, "by-path", packages.source(ECHO))

    def send(method, path="", body=None, headers=None):
        reply = http.request(box.port, method, f"/function/by-path{path}", body, headers)
        assert reply.status == 200, str(reply)
        return reply.json

    yield send
    lambdas.delete_function(FunctionName="by-path")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_arrives(seen, method):
    assert seen(method)["requestContext"]["http"]["method"] == method


def test_path_query_headers_and_body_arrive(seen):
    event = seen("POST", "/some/where?x=1&y=%C3%BC&x=2", '{"a": "ü"}'.encode(),
                 {"Content-Type": "application/json", "X-Colour": "blue", "Cookie": "a=1; b=2"})
    assert event["version"] == "2.0"
    assert event["rawPath"].endswith("/some/where")
    assert event["rawQueryString"] == "x=1&y=%C3%BC&x=2"
    assert event["queryStringParameters"] == {"x": "1,2", "y": "ü"}
    assert event["headers"]["x-colour"] == "blue"
    assert event["headers"]["content-type"] == "application/json"
    assert (event["body"], event["isBase64Encoded"]) == ('{"a": "ü"}', False)


def test_a_body_that_is_no_text_arrives_as_base64(seen):
    body = bytes(range(256))
    event = seen("PUT", "", body, {"Content-Type": "application/octet-stream"})
    assert event["isBase64Encoded"] is True and base64.b64decode(event["body"]) == body


ANSWERS = {
    # what the handler returns: (status, content type's beginning, body)
    "{'statusCode': 201, 'headers': {'content-type': 'text/plain', 'x-a': 'b'}, 'body': 'made'}": (201, "text/plain", b"made"),
    "{'statusCode': 404, 'body': 'nothing'}": (404, "", b"nothing"),
    "{'statusCode': 200, 'headers': {'Content-Type': 'image/gif'}, 'body': 'R0lGODlh', 'isBase64Encoded': True}":
        (200, "image/gif", b"GIF89a"),
    "{'plain': 'object'}": (200, "application/json", b'{"plain": "object"}'),
    "[1, 2]": (200, "application/json", b"[1, 2]"),
    "None": (200, "", None),
}


def test_answers_of_every_form(box, deploy):
    name = deploy(packages.source(
        f"ANSWERS = [{', '.join(ANSWERS)}]\n\n"
        "def handler(event, context):\n    return ANSWERS[int(event['queryStringParameters']['n'])]\n"
    ))
    for number, (what, (status, kind, body)) in enumerate(ANSWERS.items()):
        reply = box.get(f"/function/{name}?n={number}")
        assert reply.status == status, f"{what}: {reply}"
        assert reply.headers.get("content-type", "").startswith(kind), f"{what}: {reply.headers}"
        if body is not None:
            got = json.loads(reply.body) if kind == "application/json" else reply.body
            assert got == (json.loads(body) if kind == "application/json" else body), f"{what}: {reply}"
        assert reply.headers["x-mote-served-by"] in ("cold", "warm") and reply.headers["x-mote-phases"]
    assert box.get(f"/function/{name}?n=0").headers["x-a"] == "b"


def test_a_failing_function_is_a_bad_gateway_and_a_slow_one_a_timeout(box, lambdas, deploy):
    name = deploy(packages.source(
        "import time\n\ndef handler(event, context):\n"
        "    if event['rawPath'].endswith('/slow'):\n        time.sleep(60)\n    raise ValueError('as asked')\n"
    ), Timeout=2)
    reply = box.get(f"/function/{name}")
    assert reply.status == 502 and reply.headers["x-amz-function-error"] == "Unhandled", str(reply)
    assert "as asked" in reply.text, str(reply)
    reply = box.get(f"/function/{name}/slow")
    assert reply.status == 504 and "timed out after 2.00 seconds" in reply.text, str(reply)


def test_the_examples_work_in_a_browser(box, deploy):
    name = deploy(packages.example("report"), MemorySize=256, Timeout=60)
    reply = box.get(f"/function/{name}?state=TX&sort=city")
    assert (reply.status, reply.headers["x-mote-served-by"]) == (200, "cold"), str(reply)
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    airports.check_page(reply.text, state="TX", sort="city")
    reply = box.get(f"/function/{name}?sort=colour")
    assert reply.status == 400 and "colour" in reply.text
    hello = deploy(packages.example("hello-python"))
    assert box.get(f"/function/{hello}?name=Ada").json["message"] == "Hello, Ada!"
