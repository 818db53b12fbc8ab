"""Who is compared: how each is built, and how its processes are started."""

import dataclasses
import functools
import hashlib
import shutil
import subprocess
from collections.abc import Callable

from parts.machine import free_ports
from parts.processes import Processes
from parts.settings import BEFORE, BENCH, BUILD, RELEASE, ROOT, Unusable, say

RUST_PEERS = BUILD / "rust" / "release"
PRODUCTION = {"NODE_ENV": "production"}


@dataclasses.dataclass(frozen=True)
class Contender:
    """One of those who are compared. `start` begins its processes and returns the port of its HTTP side."""

    name: str
    what: str
    build: Callable[[], None]
    start: Callable[[Processes], int]
    is_peer: bool = False
    can_patch: bool = False


# ---- ours and the controls ----


def build_ours():
    cargo("build", "--release", "--locked", "--bins", "--example", "limit", "--example", "bulk")
    cargo("bench", "--locked", "--no-run", "--bench", "feed_latency")


def start_distributor(processes, release=RELEASE):
    """The address of a new distributor."""
    (port,) = free_ports(1)
    processes.start(release / "distributor", "--listen", f"127.0.0.1:{port}")
    return f"127.0.0.1:{port}"


def start_users(processes, distributor, release=RELEASE):
    """An instance of users; all of them share one database."""
    (port,) = free_ports(1)
    joined = ["--listen", f"127.0.0.1:{port}", "--distributor", distributor]
    return processes.start(release / "users", *joined, "--database", "users.db")


def start_gateway(processes, distributor, *flags, release=RELEASE):
    """The port of a new gateway."""
    (port,) = free_ports(1)
    joined = ["--listen", f"127.0.0.1:{port}", "--distributor", distributor]
    processes.start(release / "gateway", *joined, *flags)
    return port


def start_ours(processes, *flags, release=RELEASE):
    distributor = start_distributor(processes, release)
    start_users(processes, distributor, release)
    return start_gateway(processes, distributor, *flags, release=release)


def find_before():
    if not (BEFORE / "gateway").is_file():
        raise Unusable("BEFORE must name a folder with another build's gateway, distributor and users")


def start_before(processes):
    return start_ours(processes, release=BEFORE)


def start_tiny_http(processes):
    return start_ours(processes, "--front", "tiny-http")


def start_limit(processes):
    (port,) = free_ports(1)
    processes.start(RELEASE / "examples" / "limit", "--listen", f"127.0.0.1:{port}", "--database", "limit.db")
    return port


# ---- peers in Rust ----


def build_rust(package):
    need({"axum-nats": "nats-server", "axum-tonic": "protoc"}.get(package, "cargo"))
    manifest = BENCH / "peers" / "rust" / "Cargo.toml"
    cargo("build", "--release", "--locked", "--manifest-path", manifest, "-p", package, "--target-dir", BUILD / "rust")


def start_axum_nats(processes):
    port, nats = free_ports(2)
    at_nats = {"NATS_URL": f"nats://127.0.0.1:{nats}"}
    processes.start("nats-server", "-a", "127.0.0.1", "-p", nats)
    processes.start(RUST_PEERS / "nats-users", env=at_nats | {"DB_PATH": "users.db"})
    processes.start(RUST_PEERS / "nats-gateway", env=at_nats | {"PORT": str(port)})
    return port


def start_axum_tonic(processes):
    port, users = free_ports(2)
    processes.start(RUST_PEERS / "tonic-users", env={"USERS_PORT": str(users), "DB_PATH": "users.db"})
    processes.start(RUST_PEERS / "tonic-gateway", env={"USERS_PORT": str(users), "PORT": str(port)})
    return port


def start_tiny_monolith(processes):
    (port,) = free_ports(1)
    processes.start(RUST_PEERS / "tiny-monolith", env={"PORT": str(port), "DB_PATH": "users.db"})
    return port


# ---- peers in JavaScript ----


def build_node(name):
    """Installs what the lock file names into a copy of the sources, if that has not been done yet."""
    need("node")
    need("npm")
    source, target = BENCH / "peers" / name, BUILD / name
    shutil.copytree(source, target, dirs_exist_ok=True)
    wanted = hashlib.sha256((source / "package-lock.json").read_bytes()).hexdigest()
    stamp = target / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        run("npm", "ci", "--no-audit", "--no-fund", cwd=target)
        stamp.write_text(wanted)
    if name == "nestjs":
        run("npm", "run", "build", cwd=target)


def start_nestjs(processes):
    port, users = free_ports(2)
    env = PRODUCTION | {"USERS_PORT": str(users)}
    processes.start("node", BUILD / "nestjs" / "dist" / "users" / "main.js", env=env | {"DB_PATH": "users.db"})
    processes.start("node", BUILD / "nestjs" / "dist" / "gateway" / "main.js", env=env | {"PORT": str(port)})
    return port


def start_moleculer(processes):
    port, users, gateway = free_ports(3)
    home = BUILD / "moleculer"
    runner = ["node", "node_modules/moleculer/bin/moleculer-runner.js", "--config", "moleculer.config.js"]
    env = PRODUCTION | {"USERS_PORT": str(users), "GATEWAY_TCP_PORT": str(gateway)}
    database = {"NODE": "users", "DB_PATH": str(processes.folder / "users.db")}
    processes.start(*runner, "services/users.service.js", env=env | database, cwd=home)
    processes.start(*runner, "services/api.service.js", env=env | {"NODE": "gateway", "PORT": str(port)}, cwd=home)
    return port


# ---- all of them ----


def rust(package):
    return functools.partial(build_rust, package)


def node(name):
    return functools.partial(build_node, name)


ALL = [
    Contender("ours", "gateway, distributor and users, as they start by default", build_ours, start_ours, can_patch=True),
    Contender("before", "control: another build of ours, from the folder `BEFORE`", find_before, start_before, can_patch=True),
    Contender("limit", "control: our HTTP front and our store in one process, no hop", build_ours, start_limit, can_patch=True),
    Contender("ours-tiny-http", "control: ours with `--front tiny-http`", build_ours, start_tiny_http, can_patch=True),
    Contender("axum-nats", "axum, NATS request/reply, rusqlite", rust("axum-nats"), start_axum_nats, is_peer=True),
    Contender("axum-tonic", "axum, tonic (gRPC), rusqlite", rust("axum-tonic"), start_axum_tonic, is_peer=True),
    Contender("nestjs", "NestJS on Fastify, its TCP transport, better-sqlite3", node("nestjs"), start_nestjs, is_peer=True),
    Contender("moleculer", "moleculer-web, Moleculer's TCP transporter, better-sqlite3", node("moleculer"), start_moleculer, is_peer=True),
    Contender("tiny-monolith", "control: tiny_http and rusqlite in one process, no hop", rust("tiny-monolith"), start_tiny_monolith),
]
USUAL = [one.name for one in ALL if one.name not in ("before", "tiny-monolith")]


def chosen(names):
    """The contenders of these names, in the order of the table."""
    unknown = set(names) - {one.name for one in ALL}
    if unknown:
        raise Unusable(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(one.name for one in ALL)}")
    return [one for one in ALL if one.name in names]


def build(contenders):
    """Those that could be built, and for the others the reason."""
    build_probe()
    built, left_out = [], {}
    for one in contenders:
        say(f"building {one.name}")
        try:
            one.build()
            built.append(one)
        except Unusable as reason:
            say(f"  {one.name} is left out: {reason}")
            left_out[one.name] = str(reason)
    return built, left_out


def build_probe():
    """What tells how far apart the processors are: needed whoever is compared."""
    cargo("build", "--release", "--locked", "--example", "distance")


def need(program):
    if not shutil.which(program):
        raise Unusable(f"{program} is not installed")


def cargo(*arguments):
    run("cargo", *arguments, cwd=ROOT)


def run(*command, cwd):
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr or done.stdout).strip().splitlines()[-12:]
        raise Unusable(f"{' '.join(words[:3])} failed:\n    " + "\n    ".join(why))
