"""Requests: single ones, and those of wrk."""

import dataclasses
import http.client
import re
import resource
import subprocess
import time

from parts.machine import DISTANCE, await_quiet, busy_seconds
from parts.settings import BENCH, FAR_MAX, NOISE_MAX, NOISE_RETRIES, SECONDS, SEED_USERS, Unusable, say

JSON = {"Content-Type": "application/json"}
READY_WITHIN_S = 30
READ_PATH = "/users/500"
SHORTEST_S = 2


class Client:
    """One HTTP connection."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)

    def status(self, method, path, body=None):
        """The status of the answer; 0 if there was none."""
        try:
            self.connection.request(method, path, body, JSON if body else {})
            answer = self.connection.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException):
            self.connection.close()
            return 0

    def close(self):
        self.connection.close()


def await_status(port, path, wanted=200, within_s=READY_WITHIN_S, processes=None):
    """Asks until the answer has this status."""
    client, deadline, status = Client(port), time.monotonic() + within_s, 0
    while time.monotonic() < deadline:
        status = client.status("GET", path)
        if status == wanted:
            client.close()
            return
        if processes:
            processes.check()
        time.sleep(0.05)
    raise Unusable(f"GET {path} was not answered {wanted} within {within_s} s, last {status or 'not at all'}")


def first_number():
    """Numbers from here on have been used by no earlier write to any database."""
    return int(time.time() * 1000) % 10**9 * 10**5


def seed(port, count=SEED_USERS):
    """Creates users through the API, one after the other. Every one must be there afterwards."""
    client, first = Client(port), first_number()
    for number in range(first, first + count):
        body = f'{{"name":"User {number}","email":"user{number}@example.com"}}'
        status = client.status("POST", "/users", body)
        if status not in (200, 201):
            raise Unusable(f"POST /users was answered {status} while seeding")
    client.close()


@dataclasses.dataclass
class Measured:
    """What one run of wrk has shown."""

    rps: float
    p50_us: float
    p99_us: float
    requests: int
    errors: int
    starved: int
    cpu_seconds: float
    cores: float
    wrk_cores: float
    other_cores: float
    apart: float = 1.0


def measure(processes, port, connections, seconds, path=READ_PATH, writes=None):
    """Runs wrk, again if others disturb it. `writes` is (so many of 100, their method)."""
    errors = starved = 0
    for attempt in range(NOISE_RETRIES + 1):
        await_quiet()
        one = run_wrk(processes, port, connections, seconds, path, writes)
        apart = DISTANCE.times_the_nearest()
        errors, starved = errors + one.errors, max(starved, one.starved)  # from all attempts: nothing is hidden
        if one.other_cores <= NOISE_MAX and apart <= FAR_MAX:
            break
        again = ": again" if attempt < NOISE_RETRIES else ""
        say(f"    others used {one.other_cores:.2f} cores, the processors were {apart:.1f} times as far apart as before{again}")
    processes.check()
    return dataclasses.replace(one, errors=errors, starved=starved, apart=apart)


def run_wrk(processes, port, connections, seconds, path=READ_PATH, writes=None):
    """One run of wrk, with one thread."""
    seconds = max(SHORTEST_S, round(seconds * SECONDS))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s", "--latency"]
    url = [f"http://127.0.0.1:{port}{path}"]
    if writes:
        command += ["-s", str(BENCH / "parts" / "ask.lua")]
        url += ["--", str(writes[0]), writes[1], str(first_number())]
    own, everybody, wrk_before = processes.cpu_seconds(), busy_seconds(), children_seconds()
    wrk = subprocess.Popen(command + url, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        starved = count_starved(wrk, port, connections, seconds)
        printed, _ = wrk.communicate(timeout=seconds + 30)
    finally:
        wrk.kill()  # it has ended long since, unless we are being ended ourselves
        wrk.wait()
    own, everybody = processes.cpu_seconds() - own, busy_seconds() - everybody
    if wrk.returncode:
        raise Unusable(f"wrk: {printed.strip()}")
    return read_wrk(printed, own, everybody, children_seconds() - wrk_before, starved)


def children_seconds():
    """Processor time of the programs that we have waited for: wrk, and the little that counts for the starved."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def count_starved(wrk, port, connections, seconds):
    """How many connections have not got one byte, late in the run. wrk counts only answers that came: whoever serves
    half of the connections and forgets the others looks fast there."""
    began, starved = time.monotonic(), None
    for share in (0.5, 0.8):
        time.sleep(max(0.0, began + share * seconds - time.monotonic()))
        only_ours = f"( sport = :{port} )"
        told = subprocess.run(["ss", "-Htin", "state", "established", only_ours], capture_output=True, text=True, check=True)
        answered = len(re.findall(r"\bbytes_sent:[1-9]", told.stdout))
        if wrk.poll() is None:  # else its connections had ended before they were counted
            starved = max(0, connections - answered)
    if starved is None:
        raise Unusable("the machine is so busy that a row was over before its connections could be counted")
    return starved


UNITS_US = {"us": 1, "ms": 1000, "s": 10**6, "m": 60 * 10**6}


def read_wrk(text, own, everybody, wrk, starved):
    """Takes apart what wrk has printed."""

    def found(pattern, otherwise=None):
        match = re.search(pattern, text)
        if not match and otherwise is None:
            raise Unusable(f"wrk has printed something else than expected: {text}")
        return match.groups() if match else otherwise

    def microseconds(value, unit):
        return float(value) * UNITS_US[unit]

    requests, took, unit = found(r"(\d+) requests in ([\d.]+)(us|ms|s|m)")
    seconds = microseconds(took, unit) / 10**6
    broken = sum(map(int, found(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", (0, 0, 0, 0))))
    (refused,) = found(r"Non-2xx or 3xx responses: (\d+)", (0,))
    return Measured(
        rps=float(found(r"Requests/sec:\s+([\d.]+)")[0]),
        p50_us=microseconds(*found(r"50%\s+([\d.]+)(us|ms|s|m)")),
        p99_us=microseconds(*found(r"99%\s+([\d.]+)(us|ms|s|m)")),
        requests=int(requests),
        errors=broken + int(refused),
        starved=starved,
        cpu_seconds=own,
        cores=own / seconds,
        wrk_cores=wrk / seconds,
        other_cores=max(0.0, everybody - own - wrk) / seconds,
    )
