"""Clients of the API under test, whose address is in MOTE_URL."""

import itertools
import os

import boto3
import pytest
from botocore.config import Config

URL = os.environ["MOTE_URL"]
ROLE = "arn:aws:iam::000000000000:role/any"
CODE = b"PK\x03\x04 not looked into here"
NUMBERS = itertools.count(1)


def make_client(attempts=1, **options):
    """A client with its own credentials, without retries unless told."""
    return boto3.session.Session(
        aws_access_key_id="AKIDTENANTA", aws_secret_access_key="secret", region_name="eu-west-1"
    ).client(
        "lambda", endpoint_url=URL,
        config=Config(
            connect_timeout=5, read_timeout=60, retries={"total_max_attempts": attempts, "mode": "standard"}, **options
        ),
    )


@pytest.fixture(scope="session")
def lambdas():
    return make_client()


@pytest.fixture
def create(lambdas):
    """Makes functions that are gone after the test; gives CreateFunction's answer."""
    names = []

    def make(name=None, **fields):
        name = name or f"f{next(NUMBERS)}"
        fields = {"Runtime": "python3.11", "Role": ROLE, "Handler": "app.handler", "Code": {"ZipFile": CODE}, **fields}
        answer = lambdas.create_function(FunctionName=name, **fields)
        names.append(name)
        return answer

    yield make
    for name in names:
        try:
            lambdas.delete_function(FunctionName=name)
        except lambdas.exceptions.ResourceNotFoundException:
            pass
