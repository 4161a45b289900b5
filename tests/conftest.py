"""One appliance for most tests, booted once; clients and functions on it."""

import itertools
import re

import pytest

from mote import census, client, packages
from mote.appliance import Appliance

# What must never stand on the console, whatever the tests do.
DISASTER = re.compile(r"Kernel panic|Oops:|BUG: |general protection|Out of memory: Killed|panicked at|segfault")
# Own boots come last: a broken appliance shows in the quick tests first.
ORDER = ("test_examples", "test_harness", "test_boot")
LAST = (
    "test_shutdown", "test_guest_down", "test_full_disk", "test_bad_machine", "test_crash", "test_reset", "test_powercut",
    "test_disk", "test_update", "test_buildroot",
)


def pytest_collection_modifyitems(items):
    def rank(item):
        name = item.module.__name__
        if name in ORDER:
            return ORDER.index(name)
        return len(ORDER) + 1 + LAST.index(name) if name in LAST else len(ORDER)

    items.sort(key=rank)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A failure comes with the end of the console of the machine it happened on."""
    report = (yield).get_result()
    if report.failed and report.when in ("setup", "call"):
        for value in getattr(item, "funcargs", {}).values():
            for machine in [value] if isinstance(value, Appliance) else getattr(value, "made", []):
                report.sections.append(("console of the appliance", machine.tail(40)))


def assert_no_disaster(console):
    # What hostd quotes of a function's console happened in a microVM, which is there for that.
    found = DISASTER.search(re.sub("console ends with: .*", "", console))
    assert not found, f"On the console: {found.group()}\n{console[-8000:]}"


@pytest.fixture(scope="session")
def box():
    """The appliance the tests share."""
    with Appliance(options={"sandbox.idle_timeout_s": 900}) as machine:
        machine.ready_ms = machine.boot()
        yield machine
        assert_no_disaster(machine.consoles())


def machines():
    """Makes machines; all are gone afterwards, and none of their consoles tells of a disaster."""
    made = []

    def make(**wishes):
        made.append(Appliance(**wishes))
        return made[-1]

    make.made = made
    yield make
    consoles = [machine.consoles() for machine in made]
    for machine in made:
        machine.close()
    for console in consoles:
        assert_no_disaster(console)


# For one test, and for all tests of a file, which save boots by handing their machine on.
own_box = pytest.fixture(machines, name="own_box")
module_box = pytest.fixture(machines, name="module_box", scope="module")


@pytest.fixture(scope="session")
def lambdas(box):
    """A boto3 client; created once, for that takes longer than most calls."""
    return client.lambda_client(box.port)


@pytest.fixture(scope="session")
def unchecked(box):
    """A boto3 client that sends whatever it is told to: the appliance has to check by itself."""
    return client.lambda_client(box.port, parameter_validation=False)


@pytest.fixture(scope="session")
def probe(box, lambdas):
    """Name of the function that does what an event says."""
    client.create(lambdas, "probe", packages.function("probe"), Environment={"Variables": {"COLOUR": "blue"}})
    assert client.invoke(lambdas, "probe", {"op": "echo"}).json["calls"] == 1
    return "probe"


NUMBERS = itertools.count(1)


@pytest.fixture
def deploy(lambdas):
    """Deploys functions of one test under names of their own; gives the name."""
    names = []

    def make(code: bytes, name: str | None = None, **options) -> str:
        name = name or f"t{next(NUMBERS)}"
        names.append(name)
        client.create(lambdas, name, code, **options)
        return name

    yield make
    for name in names:
        try:
            lambdas.delete_function(FunctionName=name)
        except lambdas.exceptions.ResourceNotFoundException:
            pass


@pytest.fixture(scope="session")
def witness(box, lambdas):
    """Name of a known-good function: whatever happened, it must still answer."""
    client.create(lambdas, "witness", packages.answering("here"))
    assert client.invoke(lambdas, "witness", {}).error is None
    return "witness"


@pytest.fixture
def nothing_leaks(box, lambdas, witness):
    """Counts before and after the test; afterwards a known-good function must still answer."""
    before = census.take(box)
    yield
    answer = client.invoke(lambdas, witness, {})
    assert answer.error is None and answer.json == {"code": "here", "config": None}, str(answer)
    census.assert_unchanged(box, before)
