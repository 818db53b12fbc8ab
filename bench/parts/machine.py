"""The machine: what it is, how busy it is, how far apart its processors are, what its disk can do."""

import datetime
import os
import platform
import resource
import socket
import subprocess
import time

from parts.settings import FAR_MAX, NOISE_MAX, QUIET_WAIT_S, RELEASE, ROOT, say

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def description():
    """What stands above every table: when and where."""
    commit = output("git", "rev-parse", "--short=12", "HEAD")
    changed = " with changes" if output("git", "status", "--porcelain", "--untracked-files=no") else ""
    versions = [first_line("rustc", "--version"), first_line("node", "--version", name="Node.js"), first_line("wrk", "-v")]
    return [
        ("date", datetime.datetime.now().astimezone().isoformat(timespec="minutes")),
        ("commit", commit + changed),
        ("processor", f"{processor_model()}, {os.cpu_count()} cores"),
        ("memory", f"{memory_bytes() / 2**30:.0f} GiB"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("versions", ", ".join(one for one in versions if one)),
    ]


def output(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def first_line(*command, name=""):
    try:
        lines = output(*command).splitlines()
    except FileNotFoundError:
        return ""
    return f"{name} {lines[0]}".strip() if lines else ""


def processor_model():
    with open("/proc/cpuinfo") as lines:
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def memory_bytes():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def busy_seconds():
    """Processor time that everybody on this machine has used since it started, stolen time too."""
    with open("/proc/stat") as lines:
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, next(lines).split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND


class Distance:
    """How far apart the processors are: `bench/distance.rs` says why that changes. Only what is much farther than the
    nearest that was seen counts as far: on some machines they always are."""

    def __init__(self):
        self.nearest_ns = None

    def times_the_nearest(self):
        now_ns = int(output(RELEASE / "examples" / "distance"))
        self.nearest_ns = min(self.nearest_ns or now_ns, now_ns)
        return now_ns / self.nearest_ns


DISTANCE = Distance()


def await_quiet():
    """Waits until others use less than NOISE_MAX cores and the processors are near each other, but not for ever."""
    look_s = 0.5
    for _ in range(max(1, round(QUIET_WAIT_S / look_s))):
        before = busy_seconds()
        time.sleep(look_s)
        if (busy_seconds() - before) / look_s < NOISE_MAX and DISTANCE.times_the_nearest() < FAR_MAX:
            return
    say(f"  the machine is still busy, or its processors far apart, after {QUIET_WAIT_S} s: measuring all the same")


def raise_descriptor_limit(wanted=16384):
    """For us and, since it is inherited, for everything that we start: thousands of connections are descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def free_ports(count):
    """Ports that nobody had a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def fdatasyncs_per_second(folder, seconds=1.0):
    """How often a second this disk can make a page durable: what every durable write waits for."""
    page, pages, count = b"\xb6" * 4096, 256, 0
    file = os.open(os.path.join(folder, "fdatasync"), os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.write(file, page * pages)  # the file has its length before: only data is written, as in SQLite's log
        os.fsync(file)
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            os.pwrite(file, page, count % pages * len(page))
            os.fdatasync(file)
            count += 1
        return count / (time.monotonic() - began)
    finally:
        os.close(file)
