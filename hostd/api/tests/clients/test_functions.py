"""Functions made, seen, changed and deleted through boto3, and the exceptions it raises for what is refused."""

import base64
import datetime
import hashlib

import pytest
from botocore.exceptions import ClientError
from conftest import CODE, ROLE, make_client


def test_create_and_get(lambdas, create):
    made = create(
        "shown", Description="d", Timeout=7, MemorySize=256, EphemeralStorage={"Size": 600},
        Environment={"Variables": {"KEY": "v", "UMLAUT": "ü"}}, Tags={"a": "b"}, TracingConfig={"Mode": "Active"},
    )
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    lambdas.get_waiter("function_active_v2").wait(FunctionName="shown")
    shown = lambdas.get_function(FunctionName="shown")
    configuration = shown["Configuration"]
    digest = base64.b64encode(hashlib.sha256(CODE).digest()).decode()
    expected = {
        "FunctionName": "shown", "FunctionArn": "arn:aws:lambda:us-east-1:000000000000:function:shown",
        "Runtime": "python3.11", "Role": ROLE, "Handler": "app.handler", "CodeSize": len(CODE), "Description": "d",
        "Timeout": 7, "MemorySize": 256, "CodeSha256": digest, "Version": "$LATEST",
        "Environment": {"Variables": {"KEY": "v", "UMLAUT": "ü"}}, "State": "Active", "LastUpdateStatus": "Successful",
        "PackageType": "Zip", "Architectures": ["x86_64"], "EphemeralStorage": {"Size": 600},
        "TracingConfig": {"Mode": "PassThrough"}, "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
    }
    assert {key: configuration.get(key) for key in expected} == expected
    changed = datetime.datetime.strptime(configuration["LastModified"], "%Y-%m-%dT%H:%M:%S.%f%z")
    assert abs((datetime.datetime.now(datetime.timezone.utc) - changed).total_seconds()) < 60
    assert "RepositoryType" in shown["Code"]
    alone = lambdas.get_function_configuration(FunctionName="shown", Qualifier="$LATEST")
    assert alone["FunctionArn"].endswith(":shown:$LATEST") and alone["RevisionId"] == configuration["RevisionId"]


def test_every_field_is_of_the_type_the_model_says(lambdas, create):
    """boto3 would drop a field it does not know and stumble over one of the wrong type."""
    create("typed")
    shape = lambdas.meta.service_model.shape_for("FunctionConfiguration")
    shown = lambdas.get_function(FunctionName="typed")["Configuration"]
    types = {"string": str, "integer": int, "long": int, "structure": dict, "list": list, "map": dict}
    for name, value in shown.items():
        assert isinstance(value, types[shape.members[name].type_name]), name


@pytest.mark.parametrize("waiter", ["function_active", "function_active_v2", "function_exists"])
def test_waiters_after_create(lambdas, create, waiter):
    name = create()["FunctionName"]
    assert lambdas.get_function(FunctionName=name)["Configuration"]["State"] == "Pending"
    lambdas.get_waiter(waiter).wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 5})
    if waiter != "function_exists":
        assert lambdas.get_function(FunctionName=name)["Configuration"]["State"] == "Active"


def test_updates_and_their_waiters(lambdas, create):
    name = create(Environment={"Variables": {"KEY": "old"}})["FunctionName"]
    with pytest.raises(lambdas.exceptions.ResourceConflictException, match="An update is in progress"):
        lambdas.update_function_configuration(FunctionName=name, Timeout=9)
    lambdas.get_waiter("function_active_v2").wait(FunctionName=name)
    before = lambdas.get_function_configuration(FunctionName=name)

    dry = lambdas.update_function_code(FunctionName=name, ZipFile=b"PK dry", DryRun=True)
    assert dry["CodeSize"] == 6
    assert lambdas.get_function_configuration(FunctionName=name)["CodeSha256"] == before["CodeSha256"]

    changed = lambdas.update_function_code(FunctionName=name, ZipFile=b"PK new", Publish=True)
    assert changed["LastUpdateStatus"] == "InProgress" and changed["CodeSize"] == 6
    lambdas.get_waiter("function_updated").wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 5})

    with pytest.raises(lambdas.exceptions.PreconditionFailedException):
        lambdas.update_function_configuration(FunctionName=name, Timeout=9, RevisionId=before["RevisionId"])
    changed = lambdas.update_function_configuration(
        FunctionName=name, Timeout=9, Environment={"Variables": {}}, RevisionId=changed["RevisionId"]
    )
    lambdas.get_waiter("function_updated_v2").wait(FunctionName=name)
    after = lambdas.get_function_configuration(FunctionName=name)
    assert after["Timeout"] == 9 and "Environment" not in after and after["Handler"] == "app.handler"
    assert after["RevisionId"] == changed["RevisionId"] != before["RevisionId"]


def test_delete(lambdas, create):
    name = create()["FunctionName"]
    with pytest.raises(lambdas.exceptions.InvalidParameterValueException):
        lambdas.delete_function(FunctionName=name, Qualifier="$LATEST")
    with pytest.raises(lambdas.exceptions.ResourceNotFoundException):
        lambdas.delete_function(FunctionName=name, Qualifier="1")
    assert lambdas.delete_function(FunctionName=name)["ResponseMetadata"]["HTTPStatusCode"] == 204
    for attempt in (
        lambda: lambdas.get_function(FunctionName=name),
        lambda: lambdas.get_function_configuration(FunctionName=name),
        lambda: lambdas.delete_function(FunctionName=name),
        lambda: lambdas.invoke(FunctionName=name),
        lambda: lambdas.invoke(FunctionName=name, InvocationType="DryRun"),
        lambda: lambdas.update_function_code(FunctionName=name, ZipFile=CODE),
        lambda: lambdas.update_function_configuration(FunctionName=name),
    ):
        with pytest.raises(lambdas.exceptions.ResourceNotFoundException, match=f"Function not found: .*:{name}"):
            attempt()


def test_lists_come_in_pages(lambdas, create):
    names = [create(f"page-{number:02}")["FunctionName"] for number in range(7)]
    first = lambdas.list_functions(MaxItems=3)
    assert [f["FunctionName"] for f in first["Functions"]] == names[:3]
    second = lambdas.list_functions(MaxItems=3, Marker=first["NextMarker"], FunctionVersion="ALL")
    assert [f["FunctionArn"].split(":")[-2:] for f in second["Functions"]] == [[n, "$LATEST"] for n in names[3:6]]
    for size in (1, 2, 7, 50):
        pages = lambdas.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": size})
        assert [f["FunctionName"] for page in pages for f in page["Functions"]] == names
    assert "NextMarker" not in lambdas.list_functions(MaxItems=7)
    with pytest.raises(lambdas.exceptions.InvalidParameterValueException, match="Marker"):
        lambdas.list_functions(Marker="../../")


def test_a_name_is_taken_once(lambdas, create):
    create("taken")
    with pytest.raises(lambdas.exceptions.ResourceConflictException, match="Function already exist: taken"):
        create("taken")


@pytest.mark.parametrize("name", [
    "by-arn", "000000000000:function:by-arn", "by-arn:$LATEST", "arn:aws:lambda:eu-west-1:123456789012:function:by-arn",
    "arn:aws:lambda:us-east-1:000000000000:function:by-arn:$LATEST",
])
def test_names_in_every_form(lambdas, create, name):
    create("by-arn")
    assert lambdas.get_function(FunctionName=name)["Configuration"]["FunctionName"] == "by-arn"
    assert lambdas.invoke(FunctionName=name, Payload=b"1")["Payload"].read() == b"1"


REFUSED = {
    "bad name": ({"FunctionName": "no good"}, "InvalidParameterValueException", "functionName"),
    "runtime": ({"Runtime": "cobol"}, "InvalidParameterValueException", "python3.11"),
    "timeout": ({"Timeout": 901}, "InvalidParameterValueException", "1 to 900"),
    "memory of this machine": ({"MemorySize": 4096}, "InvalidParameterValueException", "128 to 2048"),
    "handler": ({"Handler": "a b"}, "InvalidParameterValueException", "Handler"),
    "layers": ({"Layers": ["arn:aws:lambda:x:1:layer:y:1"]}, "InvalidParameterValueException", "Layers"),
    "vpc": ({"VpcConfig": {"SubnetIds": ["s"]}}, "InvalidParameterValueException", "VpcConfig"),
    "kms": ({"KMSKeyArn": "arn:aws:kms:x"}, "InvalidParameterValueException", "KMSKeyArn"),
    "image": ({"Code": {"ImageUri": "x"}, "PackageType": "Image"}, "InvalidParameterValueException", "Image"),
    "s3": ({"Code": {"S3Bucket": "bucket", "S3Key": "k"}}, "InvalidParameterValueException", "S3Bucket"),
    "no zip": ({"Code": {"ZipFile": b"nothing of the kind"}}, "InvalidParameterValueException", "no zip"),
    "reserved": ({"Environment": {"Variables": {"AWS_REGION": "x"}}}, "InvalidParameterValueException", "AWS_REGION"),
    "environment": ({"Environment": {"Variables": {"KEY": "x" * 4097}}}, "InvalidParameterValueException", "4096"),
    "zip over the limit": ({"Code": {"ZipFile": b"PK" + bytes(51 << 20)}}, "RequestTooLargeException", "52428800"),
    "body over the limit": ({"Code": {"ZipFile": b"PK" + bytes(60 << 20)}}, "RequestTooLargeException", "70167211"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(create, what):
    fields, code, words = REFUSED[what]
    fields = dict(fields)
    with pytest.raises(ClientError) as caught:
        create(fields.pop("FunctionName", "refused"), **fields)
    response = caught.value.response
    assert response["Error"]["Code"] == code and words in response["Error"]["Message"], response
    # boto3 builds a class for each exception the operation's model names; the rest are plain ClientErrors.
    if code in (shape.name for shape in make_client().meta.service_model.operation_model("CreateFunction").error_shapes):
        assert type(caught.value).__name__ == code


def test_a_full_disk(lambdas, create):
    create("large-1", Code={"ZipFile": b"PK" + bytes(40 << 20)})
    with pytest.raises(lambdas.exceptions.CodeStorageExceededException) as caught:
        create("large-2", Code={"ZipFile": b"PK" + bytes(40 << 20)})
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 507
    assert caught.value.response["Error"]["Message"].startswith("Code takes")


def test_what_is_not_there_yet_is_an_error_that_says_so(lambdas, create):
    name = create()["FunctionName"]
    for attempt in (
        lambda: lambdas.publish_version(FunctionName=name),
        lambda: lambdas.list_aliases(FunctionName=name),
        lambda: lambdas.list_layers(),
    ):
        with pytest.raises(ClientError) as caught:
            attempt()
        error = caught.value.response["Error"]
        assert error["Code"] == "UnknownOperationException" and "/2015-03-31/functions" in error["Message"]
