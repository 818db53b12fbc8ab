"""Where things are, and the settings that the environment may change."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
BUILD = ROOT / "target" / "bench"  # the peers, and the databases of each round: nothing that is kept
RELEASE = ROOT / "target" / "release"
RESULTS = BENCH / "results"
BEFORE = pathlib.Path(os.environ.get("BEFORE", ""))  # the binaries of another build, for the contender of that name


def number(name, otherwise):
    return type(otherwise)(os.environ.get(name, otherwise))


ROUNDS = number("ROUNDS", 5)
SECONDS = number("SECONDS", 1.0)  # all durations are multiplied by this
NOISE_MAX = number("NOISE_MAX", 0.25)  # cores used by others: above this a row is measured again
NOISE_RETRIES = number("NOISE_RETRIES", 2)  # at most this often; then the last measurement counts
FAR_MAX = number("FAR_MAX", 2.0)  # the same if the processors were so many times as far apart as at their nearest
QUIET_WAIT_S = number("QUIET_WAIT_S", 60)  # how long to wait for quiet before a row
SEED_USERS = number("SEED_USERS", 1000)
IDLE_CONNECTIONS = number("IDLE_CONNECTIONS", 3000)


def say(text):
    """Tells how it goes. Standard output is for the table alone."""
    print(text, file=sys.stderr, flush=True)


class Unusable(Exception):
    """Something that is needed is not there or does not work; its text says what."""
