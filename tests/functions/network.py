"""Does what an event says with the sandbox's network."""

import errno
import os
import select
import socket
import threading
import time

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
PATIENCE_S = 5
# Of a scan: connections under way, and how long each may take. A function may have 1,024 files open.
AT_ONCE, LIMIT_S = 400, 1.0
heard = []


def handler(event, _context):
    event = dict(event)
    return OPERATIONS[event.pop("op")](**event)


def whoami():
    """Own addresses, as names, routes and the kernel tell them."""
    told = {}
    for version, family in FAMILIES.items():
        told[f"v{version}"] = sorted({info[4][0] for info in socket.getaddrinfo("self", None, family)})
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # Sends nothing.
            probe.connect((told[f"v{version}"][0], 9))
            told[f"source{version}"] = probe.getsockname()[0]
    with open("/etc/resolv.conf", encoding="ascii") as file:
        told["resolver"] = file.read()
    told["hostname"] = socket.gethostname()
    return told


def rest(seconds):
    """Stays busy, so that the next call gets another sandbox."""
    told = whoami()
    time.sleep(seconds)
    return told


def serve(port):
    """Echoes behind its host name, by TCP and UDP, IPv4 and IPv6, from now on."""
    name = socket.gethostname().encode()
    stream = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    datagrams.bind(("::", port))

    def streams():
        while True:
            connection, peer = stream.accept()
            with connection:
                text = connection.recv(1000)
                heard.append(["tcp", peer[0], text.decode()])
                connection.sendall(name + b" " + text)

    def packets():
        while True:
            text, peer = datagrams.recvfrom(1000)
            heard.append(["udp", peer[0], text.decode()])
            datagrams.sendto(name + b" " + text, peer)

    for loop in (streams, packets):
        threading.Thread(target=loop, daemon=True).start()
    return whoami()


def listened():
    return heard


def talk(to, port, kind, version, text):
    """Says something to a name or address, and what came back."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(to, port, FAMILIES[version], KINDS[kind])[0]
    except socket.gaierror as error:
        return {"error": error.strerror, "unknown": error.errno == socket.EAI_NONAME}
    with socket.socket(family, kind, protocol) as end:
        end.settimeout(PATIENCE_S)
        try:
            end.connect(address)
            end.sendall(text.encode())
            said = end.recv(1000).decode()
        except OSError as error:
            return {"error": str(error)}
        return {"said": said, "peer": address[0], "own": end.getsockname()[0]}


def download(to, port, megabytes):
    """Moves bytes to a peer that only counts them: how many a second."""
    block, left = bytes(64 * 1024), megabytes << 20
    with socket.create_connection((to, port), PATIENCE_S) as end:
        begun = time.monotonic()
        while left > 0:
            left -= end.send(block[:left])
        end.shutdown(socket.SHUT_WR)
        return {"counted": int(end.recv(100)), "seconds": time.monotonic() - begun}


def count(port):
    """Counts what is sent to it."""
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)

    def loop():
        while True:
            connection, _ = server.accept()
            with connection:
                total = 0
                while piece := connection.recv(1 << 20):
                    total += len(piece)
                connection.sendall(str(total).encode())

    threading.Thread(target=loop, daemon=True).start()
    return whoami()


def scan(addresses, ports):
    """Which ports accept a connection, which refuse it, and how many say nothing."""
    found = {"open": [], "refused": 0, "silent": 0, "unreachable": 0}
    pending, under_way = [(address, port) for address in addresses for port in range(*ports)], {}
    pending.reverse()
    poll = select.epoll()
    while pending or under_way:
        while pending and len(under_way) < AT_ONCE:
            address, port = pending.pop()
            end = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            end.setblocking(False)
            outcome = end.connect_ex((address, port))
            if outcome == errno.EINPROGRESS:
                under_way[end.fileno()] = (end, address, port, time.monotonic())
                poll.register(end, select.EPOLLOUT)
            else:
                note(found, outcome, address, port)
                end.close()
        for number, _ in poll.poll(0.05):
            end, address, port, _ = under_way.pop(number)
            note(found, end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), address, port)
            end.close()
        now = time.monotonic()
        for number in [number for number, (*_, since) in under_way.items() if now - since > LIMIT_S]:
            under_way.pop(number)[0].close()
            found["silent"] += 1
    return found


def note(found, outcome, address, port):
    if outcome == 0:
        found["open"].append([address, port])
    else:
        found["refused" if outcome == errno.ECONNREFUSED else "unreachable"] += 1


def privileges():
    """What a function tries that wants to send as somebody else."""
    tried = {}
    for name, arguments in {"packet": (socket.AF_PACKET, socket.SOCK_RAW), "raw": (socket.AF_INET, socket.SOCK_RAW, 255)}.items():
        try:
            socket.socket(*arguments).close()
            tried[name] = None
        except OSError as error:
            tried[name] = error.errno
    tried["uid"] = os.getuid()
    return tried


OPERATIONS = {
    operation.__name__: operation
    for operation in (whoami, rest, serve, listened, talk, download, count, scan, privileges)
}
