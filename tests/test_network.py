"""Functions reach each other by name and address, and nobody else."""

import itertools
import socket
import threading
import time

import pytest
from botocore.exceptions import ClientError

from mote import census, client, packages
from mote.client import create, invoke, refused

# Tenants see the same addresses. `small` may have one sandbox, `open` may go out.
TENANTS = (
    "[{name='default',vni=1},{name='blue',vni=2},{name='small',vni=3,max_sandboxes=1},"
    "{name='open',vni=4,egress='all'}]"
)
# Another machine that is not there, the first of its addresses, and what this machine finds the tests' machine at.
PEERS = "[{node=1,address='10.0.2.77'}]"
FAR = {4: "10.64.4.2", 6: "fd6d:6f74:6500:1:0:1:0:2"}
OUTSIDE = "10.0.2.2"
ENDPOINTS = 10
QUARANTINE_S = 2
PORT = 7000
WAYS = list(itertools.product(("tcp", "udp"), (4, 6)))
API_PORT = 8080
METADATA = "169.254.169.254"


@pytest.fixture(scope="module")
def box(module_box):
    options = {
        "network.tenants": TENANTS,
        "network.peers": PEERS,
        "network.endpoints": ENDPOINTS,
        "network.quarantine_s": QUARANTINE_S,
        "sandbox.idle_timeout_s": 900,
    }
    machine = module_box(options=options)
    machine.boot()
    return machine


@pytest.fixture(scope="module")
def lambdas(box):
    own = client.lambda_client(box.port)
    for name, tenant in {"server": None, "asker": None, "stranger": "blue", "only": "small", "outgoing": "open"}.items():
        tags = {"Tags": {"mote:tenant": tenant}} if tenant else {}
        create(own, name, packages.function("network"), Timeout=120, **tags)
    return own


def ask(lambdas, function, op, **event):
    answer = invoke(lambdas, function, {"op": op, **event})
    assert answer.error is None, str(answer)
    return answer.json


@pytest.fixture(scope="module")
def server(lambdas):
    """What the serving sandbox says of itself."""
    return ask(lambdas, "server", "serve", port=PORT)


def invoked_or_refused(own, function, seconds):
    try:
        return invoke(own, function, {"op": "rest", "seconds": seconds})
    except ClientError as error:
        return client.refusal_of(error)


def sandboxes(box):
    return box.get("/system/sandboxes").json


def test_a_sandbox_knows_its_addresses(box, lambdas):
    told = ask(lambdas, "asker", "whoami")
    (listed,) = [entry for entry in sandboxes(box) if entry["function"].startswith("asker@")]
    assert told["v4"] == [told["source4"]] == [listed["v4"]]
    assert told["v6"] == [told["source6"]] == [listed["v6"]]
    assert listed["tenant"] == "default"
    assert "search default.mote mote" in told["resolver"]


@pytest.mark.parametrize("name", ["server", "server.default.mote", "SERVER.default.mote."])
@pytest.mark.parametrize("kind,version", WAYS)
def test_functions_of_a_tenant_talk_by_name(lambdas, server, name, kind, version):
    text = f"{kind}{version} {name}"
    answer = ask(lambdas, "asker", "talk", to=name, port=PORT, kind=kind, version=version, text=text)
    assert answer.get("said") == f"{server['hostname']} {text}", answer
    assert answer["peer"] == server[f"v{version}"][0]
    heard = ask(lambdas, "server", "listened")
    own = answer["own"] if version == 6 else f"::ffff:{answer['own']}"
    assert [kind, own, text] in heard


def test_a_name_without_a_sandbox_is_no_name(lambdas, server):
    for name in ("nobody", "nobody.default.mote", "server.blue.mote", "example.com"):
        answer = ask(lambdas, "asker", "talk", to=name, port=PORT, kind="tcp", version=4, text="x")
        assert answer.get("unknown"), (name, answer)


def test_another_tenant_sees_nothing(box, lambdas, server):
    """The same addresses are there for the other tenant, and behind them its own sandboxes only."""
    stranger = ask(lambdas, "stranger", "whoami")
    shared = stranger["v4"][0].rsplit(".", 1)[0]
    assert server["v4"][0].startswith(shared + "."), "the two tenants should have one range"
    for name in ("server", "server.default.mote", "server.blue.mote"):
        assert ask(lambdas, "stranger", "talk", to=name, port=PORT, kind="tcp", version=4, text="x").get("unknown")
    for kind, version in WAYS:
        to = server[f"v{version}"][0]
        answer = ask(lambdas, "stranger", "talk", to=to, port=PORT, kind=kind, version=version, text="stranger")
        assert "said" not in answer, answer
    everywhere = [f"{shared}.{host}" for host in range(1, 256)] + server["v6"]
    found = ask(lambdas, "stranger", "scan", addresses=everywhere, ports=[PORT, PORT + 1])
    assert found["open"] == [], found
    heard = ask(lambdas, "server", "listened")
    assert not [entry for entry in heard if entry[2] == "stranger"], heard


def test_a_hostile_function_finds_no_open_port_but_its_tenants_own(box, lambdas, server):
    gateways = [line.split()[1] for line in ask(lambdas, "asker", "whoami")["resolver"].splitlines()
                if line.startswith("nameserver")]
    assert len(gateways) == 2
    found = ask(lambdas, "asker", "scan", addresses=gateways, ports=[1, 2048])
    assert sorted(found["open"]) == sorted([gateway, 53] for gateway in gateways), found
    host = box.status()["address"].split("/")[0]
    assert host
    found = ask(lambdas, "asker", "scan", addresses=[host, METADATA, *gateways], ports=[API_PORT, API_PORT + 1])
    assert found["open"] == [], found
    found = ask(lambdas, "asker", "scan", addresses=[METADATA, host], ports=[80, 81])
    assert found["open"] == [], found
    found = ask(lambdas, "asker", "scan", addresses=server["v4"] + server["v6"], ports=[PORT - 500, PORT + 500])
    assert sorted(found["open"]) == sorted([address, PORT] for address in server["v4"] + server["v6"]), found


@pytest.fixture
def outside():
    """A port of the tests' machine that echoes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"outside " + connection.recv(1000))

        thread = threading.Thread(target=echo, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def test_only_tenants_that_may_go_out_do(box, lambdas, outside):
    way = {"to": OUTSIDE, "port": outside, "kind": "tcp", "version": 4, "text": "hello"}
    assert ask(lambdas, "outgoing", "talk", **way).get("said") == "outside hello"
    for function in ("asker", "stranger"):
        answer = ask(lambdas, function, "talk", **way)
        assert "said" not in answer, answer
    # Going out is no way in, neither here nor to other tenants.
    host = box.status()["address"].split("/")[0]
    others = [entry["v4"] for entry in sandboxes(box) if entry["tenant"] == "default"]
    own = ask(lambdas, "outgoing", "whoami")["v4"]
    assert others
    for addresses, ports in (([host], [1, 100]), ([host, METADATA], [API_PORT, API_PORT + 1]),
                             ([a for a in others if a not in own], [PORT, PORT + 1])):
        found = ask(lambdas, "outgoing", "scan", addresses=addresses, ports=ports)
        assert found["open"] == [], found


@pytest.mark.parametrize("kind,version", WAYS)
def test_a_machine_that_is_not_there_holds_nobody_up(box, lambdas, kind, version):
    begun = time.monotonic()
    answer = ask(lambdas, "asker", "talk", to=FAR[version], port=PORT, kind=kind, version=version, text="x")
    assert "error" in answer, answer
    assert time.monotonic() - begun < 10
    assert box.get("/healthz").status == 200


def test_a_function_cannot_send_as_somebody_else(lambdas):
    tried = ask(lambdas, "asker", "privileges")
    assert tried["uid"] != 0 and tried["packet"] and tried["raw"], tried


def test_clones_of_one_snapshot_have_addresses_of_their_own(box, lambdas):
    count = 8
    ask(lambdas, "asker", "whoami")
    box.put_away()
    time.sleep(QUARANTINE_S)
    answers = client.at_once(box.port, count, lambda own, _: invoke(own, "asker", {"op": "rest", "seconds": 20}))
    assert [answer.error for answer in answers] == [None] * count, [str(answer) for answer in answers]
    assert sum(answer.served_by == "restore" for answer in answers) == count
    for version in ("4", "6"):
        told = [answer.json[f"v{version}"] for answer in answers]
        assert all(len(addresses) == 1 for addresses in told), told
        assert len({addresses[0] for addresses in told}) == count, told
        assert [answer.json[f"source{version}"] for answer in answers] == [addresses[0] for addresses in told]
    # All of them by one name.
    listed = {entry["v4"] for entry in sandboxes(box) if entry["function"].startswith("asker@")}
    assert listed == {answer.json["v4"][0] for answer in answers}
    box.put_away()


def test_without_a_free_place_the_limit_is_named(box, lambdas):
    # It has its snapshot: nobody waits for that.
    ask(lambdas, "asker", "whoami")
    box.put_away()
    time.sleep(QUARANTINE_S)

    def act(own, _):
        return invoked_or_refused(own, "asker", 25)

    answers = client.at_once(box.port, ENDPOINTS + 1, act)
    refusals = [answer for answer in answers if isinstance(answer, client.Refusal)]
    assert len(refusals) == 1, [str(answer) for answer in answers]
    assert refusals[0].status == 503 and f"network.endpoints = {ENDPOINTS}" in refusals[0].message, refusals
    assert int(refusals[0].headers["retry-after"]) >= 1
    box.put_away()
    time.sleep(QUARANTINE_S)
    assert ask(lambdas, "asker", "whoami")["v4"]


def test_a_tenant_over_its_quota_is_told_so_and_others_are_served(box, lambdas):
    def act(own, _):
        return invoked_or_refused(own, "only", 15)

    ask(lambdas, "only", "whoami")
    box.put_away()
    answers = client.at_once(box.port, 2, act)
    (refusal,) = [answer for answer in answers if isinstance(answer, client.Refusal)]
    assert refusal.status == 429 and "'small'" in refusal.message and "max_sandboxes" in refusal.message, refusal
    assert ask(lambdas, "asker", "whoami")["v4"]


def test_functions_of_unknown_tenants_are_refused(lambdas):
    with refused() as refusals:
        create(lambdas, "nobodys", packages.function("network"), Tags={"mote:tenant": "green"})
    assert refusals[0].type == "InvalidParameterValueException", refusals
    assert "'green'" in refusals[0].message and "blue, default, open, small" in refusals[0].message, refusals


def test_sandboxes_that_come_and_go_leave_nothing_behind(box, lambdas):
    ask(lambdas, "asker", "whoami")
    ask(lambdas, "stranger", "whoami")
    before = census.take(box)
    for _ in range(5):
        ask(lambdas, "asker", "whoami")
        ask(lambdas, "stranger", "whoami")
        box.put_away()
    census.assert_unchanged(box, before)
    tenants = box.status()["network"]["tenants"]
    assert all(tenant["sandboxes"] == 0 for tenant in tenants.values()), tenants


@pytest.mark.parametrize(
    "options,said",
    [
        ({"network.peers": "[{node=1,address='10.0.2.77'}]", "network.mtu": 1300}, "too small for VXLAN"),
        ({"network.peers": "[{node=0,address='10.0.2.77'}]"}, "their ranges overlap"),
    ],
)
def test_a_machine_with_a_wrong_network_says_so_and_serves_without(own_box, options, said):
    machine = own_box(options=options)
    machine.boot()
    (component,) = [part for part in machine.get("/healthz").json["components"] if part["name"] == "network"]
    assert not component["ok"] and said in component["reason"], component
    own = client.lambda_client(machine.port)
    create(own, "alone", packages.answering("here"))
    assert invoke(own, "alone", {}).json["code"] == "here"
