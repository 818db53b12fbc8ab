"""What is measured: the rows of the table, and how one contender gets through one round of them."""

import json
import re
import socket
import subprocess
import time
import urllib.request

from parts.contenders import start_distributor, start_gateway, start_users
from parts.load import READ_PATH, Client, await_status, measure, run_wrk, seed
from parts.machine import fdatasyncs_per_second
from parts.processes import Processes
from parts.settings import IDLE_CONNECTIONS, ROOT, Unusable, say

WARM_UP_S = 1
WAKE_WITHIN_S = 10

#        name          connections, seconds, writes of 100 and their method
READS = [
    ("get_c1", 1, 3, None),
    ("get_c64", 64, 5, None),
]
WRITES = [
    ("post_c32", 32, 3, (100, "POST")),
    ("patch_c32", 32, 3, (100, "PATCH")),
    ("mix_c64", 64, 3, (5, "POST")),
]
CROWDS = [
    ("get_c256", 256, 3, None),
    ("get_c1024", 1024, 3, None),
]


def one_round(contender, emit):
    """All rows of one contender, on a new database."""
    with Processes() as processes:
        port = contender.start(processes)
        await_status(port, "/users?limit=20", processes=processes)
        seed(port)
        await_status(port, READ_PATH)
        run_wrk(processes, port, 8, WARM_UP_S)
        for row in READS:
            load(processes, port, row, emit)
        run_wrk(processes, port, 32, WARM_UP_S, writes=(100, "POST"))
        for row in WRITES:
            if contender.can_patch or row[3][1] != "PATCH":
                load(processes, port, row, emit)
        emit("peak_mb", processes.peak_mb())
        emit("pss_mb", processes.pss_mb())
        for row in CROWDS:
            load(processes, port, row, emit)
        emit("peak_1024_mb", processes.peak_mb())
        await_status(port, READ_PATH)
    try:
        idle(contender, emit)
    except Unusable as reason:  # everything else of this contender counts all the same
        say(f"    no figure for idle connections: {reason}")


def load(processes, port, row, emit):
    name, connections, seconds, writes = row
    if writes == (100, "POST"):
        emit("fdatasync_per_s", fdatasyncs_per_second(processes.folder))
    one = measure(processes, port, connections, seconds, writes=writes)
    for metric in ("rps", "p50_us", "p99_us", "errors", "starved", "other_cores", "apart"):
        emit(f"{name}_{metric}", getattr(one, metric))
    if name == "get_c64":
        emit("cpu_s_per_1000_get", one.cpu_seconds / max(1, one.requests) * 1000)
        emit("cores_c64", one.cores)
        emit("wrk_cores_c64", one.wrk_cores)


def idle(contender, emit):
    """What a connection costs that has been served once and then says nothing. What the processes need once, such as the
    buffers of a log, is there before it begins."""
    with Processes() as processes:
        port = contender.start(processes)
        await_status(port, "/users?limit=20", processes=processes)
        seed(port, 1)
        run_wrk(processes, port, 8, WARM_UP_S, "/users/1")
        before, connections = processes.pss_mb(), []
        try:
            connections = [greet(port) for _ in range(IDLE_CONNECTIONS)]
            time.sleep(0.5)  # whoever gives buffers back when a connection falls silent has had time to do so
            after = processes.pss_mb()
        except OSError as error:
            raise Unusable(f"idle connection {len(connections)}: {error}") from error
        finally:
            for one in connections:
                one.close()
        emit("idle_kib_per_connection", (after - before) * 1024 / IDLE_CONNECTIONS)


def greet(port):
    """A connection that has had one answer."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    connection.sendall(b"GET /users/1 HTTP/1.1\r\nHost: bench\r\n\r\n")
    if b" 200 " not in connection.recv(4096).split(b"\r\n")[0]:
        raise Unusable("an idle connection did not get its answer")
    return connection


# ---- what only ours can do ----


def ours_alone(emit, times=5):
    """How soon another instance serves, and how soon a new one does."""
    with Processes() as processes:
        distributor = start_distributor(processes)
        instances = [start_users(processes, distributor)]
        port = start_gateway(processes, distributor)
        await_status(port, "/users?limit=20", processes=processes)
        seed(port)
        for _ in range(times):
            while len(instances) < 2:
                instances.append(start_users(processes, distributor))
                await_instances(port, 2)
            first_ms, slowest_ms = takeover(processes, port, instances.pop(0))
            emit("takeover_ms", first_ms)
            emit("takeover_slowest_ms", slowest_ms)
            await_instances(port, 1)
        for _ in range(times):
            processes.kill(instances.pop())
            await_status(port, READ_PATH, 503)
            began = time.monotonic()
            instances.append(start_users(processes, distributor))
            first_answer(port)
            emit("start_ms", (time.monotonic() - began) * 1000)


def takeover(processes, port, victim):
    """Milliseconds from `kill -9` of one of two instances to the first answer after it, and the slowest of the next
    100 requests. An answer counts once the victim is gone: it can only be the other's."""
    client = Client(port)
    for _ in range(50):
        if client.status("GET", READ_PATH) != 200:
            raise Unusable("two instances were up, and a GET was not answered 200")
    began = time.monotonic()
    processes.kill(victim)
    first, slowest = None, 0.0
    for _ in range(100):
        sent = time.monotonic()
        status = client.status("GET", READ_PATH)
        answered = time.monotonic()
        slowest = max(slowest, answered - sent)
        if status == 200 and first is None:
            first = answered - began
    client.close()
    if first is None:
        raise Unusable("nobody took over within 100 requests")
    return first * 1000, slowest * 1000


def first_answer(port):
    """Asks without a pause until a request is answered 200."""
    client, deadline = Client(port), time.monotonic() + WAKE_WITHIN_S
    while client.status("GET", READ_PATH) != 200:
        if time.monotonic() > deadline:
            raise Unusable(f"a new instance has not served within {WAKE_WITHIN_S} s")
        time.sleep(0.0005)
    client.close()


def await_instances(port, count):
    """Waits until the gateway has so many instances for a GET."""
    deadline = time.monotonic() + WAKE_WITHIN_S
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/routes", timeout=5) as answer:
            routes = json.load(answer)["results"]
        found = [row["instances"] for row in routes if (row["method"], row["path"]) == ("GET", "/users")]
        if found and len(found[0]) == count:
            return
        time.sleep(0.01)
    raise Unusable(f"the gateway has not had {count} instances of users within {WAKE_WITHIN_S} s")


def feed(emit):
    """From commit to subscriber. The bench of that name measures it, with real processes of its own."""
    command = ["cargo", "bench", "--quiet", "--locked", "--bench", "feed_latency"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    for name, begins in (("feed_sent", "from the write being sent"), ("feed_answered", "from the writer's answer")):
        found = re.search(begins + r"\s+p50\s+([\d.]+) ms.*?p99\s+([\d.]+) ms", done.stdout)
        if not found:
            raise Unusable(f"cargo bench --bench feed_latency: {(done.stderr or done.stdout).strip()[-400:]}")
        emit(f"{name}_p50_ms", float(found[1]))
        emit(f"{name}_p99_ms", float(found[2]))
