"""Processes that we start, watch and end: each by its id, and no others."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from parts.machine import TICKS_PER_SECOND
from parts.settings import BUILD, Unusable


class Processes:
    """The processes of one contender, with a folder for its database and their output. Use it in a `with`."""

    def __init__(self):
        BUILD.mkdir(parents=True, exist_ok=True)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="run.", dir=BUILD))
        self.log = open(self.folder / "log", "ab")
        self.running = []

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.stop()

    def start(self, *command, env=None, cwd=None):
        """Starts a program; its output goes to the log file of the folder."""
        process = subprocess.Popen(
            [str(word) for word in command],
            env=os.environ | (env or {}),
            cwd=cwd or self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        self.running.append(process)
        return process

    def kill(self, process):
        """Ends one process as a crash would, and returns when it is gone."""
        process.kill()
        process.wait()
        self.running.remove(process)

    def check(self):
        """That all are still alive: who measures a dead one measures nothing."""
        for process in self.running:
            if process.poll() is not None:
                raise Unusable(f"{process.args[0]} has ended with status {process.returncode}: {self.last_words()}")

    def last_words(self):
        return (self.folder / "log").read_text(errors="replace")[-400:]

    def stop(self):
        for process in self.running:
            process.terminate()
        deadline = time.monotonic() + 5
        for process in self.running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def cpu_seconds(self):
        """Processor time, user and system, of all of them since they started."""
        return sum(cpu_seconds(process.pid) for process in self.running)

    def peak_mb(self):
        """The most memory that each has had, added up. Pages that they share count in each."""
        return sum(kib(process.pid, "status", "VmHWM") for process in self.running) / 1024

    def pss_mb(self):
        """The memory that they have now. Shared pages count once."""
        return sum(kib(process.pid, "smaps_rollup", "Pss") for process in self.running) / 1024


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def kib(pid, file, name):
    with open(f"/proc/{pid}/{file}") as lines:
        for line in lines:
            if line.startswith(name + ":"):
                return int(line.split()[1])
    raise Unusable(f"/proc/{pid}/{file} has no {name}")
