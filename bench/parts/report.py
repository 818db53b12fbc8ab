"""The tables: what was reached, and every row in full."""

import dataclasses

from parts.settings import IDLE_CONNECTIONS

# ---- the goals: docs/performance.md says where they come from ----


@dataclasses.dataclass(frozen=True)
class Goal:
    """What `metric` of ours is to reach, compared with the best peer, with the limit, with another metric of ours or
    with nothing."""

    label: str
    metric: str
    against: str
    bound: float
    at_least: bool = True
    other: str = ""

    def met(self, value):
        return value >= self.bound if self.at_least else value <= self.bound


PEER, LIMIT, OURS, ITSELF = "best peer", "limit", "ours", ""

GOALS = [
    Goal("GET, 64 connections, requests/s", "get_c64_rps", PEER, 1.6),
    Goal("GET, 64 connections, requests/s", "get_c64_rps", LIMIT, 0.7),
    Goal("GET, 64 connections, 99th percentile", "get_c64_p99_us", PEER, 1.0, at_least=False),
    Goal("GET, 1 connection, requests/s", "get_c1_rps", PEER, 1.7),
    Goal("GET, 1 connection, requests/s", "get_c1_rps", LIMIT, 0.67),
    Goal("GET, 256 connections, requests/s", "get_c256_rps", OURS, 0.9, other="get_c64_rps"),
    Goal("GET, 1,024 connections, requests/s", "get_c1024_rps", OURS, 0.9, other="get_c64_rps"),
    Goal("POST, 32 connections, durable, requests/s", "post_c32_rps", PEER, 1.2),
    Goal("PATCH, 32 connections, durable, requests/s", "patch_c32_rps", PEER, 1.2, other="post_c32_rps"),
    Goal("CPU seconds per 1,000 GET, 64 connections", "cpu_s_per_1000_get", PEER, 0.65, at_least=False),
    Goal("peak memory of all processes, MB", "peak_mb", PEER, 1.0, at_least=False),
    Goal("memory of an idle connection, KiB", "idle_kib_per_connection", ITSELF, 16, at_least=False),
    Goal("commit to subscriber, 99th percentile, ms", "feed_sent_p99_ms", ITSELF, 10, at_least=False),
    Goal("`kill -9` to the first request served by another, ms", "takeover_ms", ITSELF, 10, at_least=False),
    Goal("start of a service to its first routed request, ms", "start_ms", ITSELF, 50, at_least=False),
    Goal("starved connections, all rows", "starved", ITSELF, 0, at_least=False),
]


def goals_table(figures, peers):
    lines = ["| measure | ours | compared with | | ratio | goal | |", "| --- | ---: | --- | ---: | ---: | ---: | --- |"]
    return lines + [goal_line(goal, figures, peers) for goal in GOALS]


def goal_line(goal, figures, peers):
    ours = figures.median("ours", goal.metric)
    if goal.metric == "starved":
        ours = starved(figures, "ours")
    sign = "≥" if goal.at_least else "≤"
    if goal.against == ITSELF:
        verdict = judge(goal, ours)
        return f"| {goal.label} | {plain(ours)} | | | | {sign} {goal.bound:g} | {verdict} |"
    value, who = compared(goal, figures, peers)
    ratio = ours / value if ours is not None and value else None
    told = f"{sign} {goal.bound:g} × {goal.against}"
    return f"| {goal.label} | {plain(ours)} | {who or '–'} | {plain(value)} | {plain(ratio)} | {told} | {judge(goal, ratio)} |"


def compared(goal, figures, peers):
    metric = goal.other or goal.metric
    if goal.against == PEER:
        return figures.best(metric, peers, max if goal.at_least else min)
    who = "limit" if goal.against == LIMIT else "ours"
    return figures.median(who, metric), who if not goal.other else f"{who}, 64 connections"


def judge(goal, value):
    if value is None:
        return "not measured"
    return "met" if goal.met(value) else "**not met**"


def starved(figures, contender):
    values = [sum(values) for (who, metric), values in figures.values.items() if who == contender and metric.endswith("_starved")]
    return sum(values) if values else None


def plain(value):
    """A number as people read it: three digits that count, thousands apart."""
    if value is None:
        return "–"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


# ---- all rows ----

LOADS = [
    ("get_c1", "GET, 1 connection"),
    ("get_c64", "GET, 64 connections"),
    ("get_c256", "GET, 256 connections"),
    ("get_c1024", "GET, 1,024 connections"),
    ("post_c32", "POST, 32 connections"),
    ("patch_c32", "PATCH, 32 connections"),
    ("mix_c64", "95 % GET and 5 % POST, 64 connections"),
]
OF_A_LOAD = [("rps", "requests/s"), ("p50_us", "p50, µs"), ("p99_us", "p99, µs")]
TROUBLE = [("errors", "errors"), ("starved", "starved")]
OTHERS = [
    ("cpu_s_per_1000_get", "CPU seconds per 1,000 GET, 64 connections"),
    ("cores_c64", "cores used, GET, 64 connections"),
    ("wrk_cores_c64", "cores used by wrk meanwhile"),
    ("peak_mb", "peak memory up to 64 connections, all processes, MB"),
    ("peak_1024_mb", "peak memory up to 1,024 connections, MB"),
    ("pss_mb", "memory after the writes, shared pages counted once, MB"),
    ("idle_kib_per_connection", f"an idle connection of {IDLE_CONNECTIONS:,}, KiB"),
    ("fdatasync_per_s", "fdatasync per second, the disk alone"),
]
OURS_ALONE = [
    ("feed_sent_p50_ms", "write sent to subscriber (the commit included), p50, ms"),
    ("feed_sent_p99_ms", "the same, p99, ms"),
    ("feed_answered_p50_ms", "writer's answer to subscriber, p50, ms"),
    ("feed_answered_p99_ms", "the same, p99, ms"),
    ("takeover_ms", "`kill -9` of one of two instances to the first answer, ms"),
    ("takeover_slowest_ms", "the slowest of the 100 requests after it, ms"),
    ("start_ms", "start of a service to its first routed request, ms"),
]


def full_table(figures, contenders):
    lines = ["| | " + " | ".join(contenders) + " |", "| --- |" + " ---: |" * len(contenders)]
    for load, label in LOADS:
        for suffix, unit in OF_A_LOAD:
            lines += row(f"{label}: {unit}", f"{load}_{suffix}", figures, contenders)
        for suffix, unit in TROUBLE:
            lines += row(f"{label}: {unit}", f"{load}_{suffix}", figures, contenders, total)
    for metric, label in OTHERS:
        lines += row(label, metric, figures, contenders)
    return lines


def alone_table(figures):
    lines = ["| | ours |", "| --- | ---: |"]
    for metric, label in OURS_ALONE:
        lines += row(label, metric, figures, ["ours"])
    return lines


def row(label, metric, figures, contenders, cell=None):
    cells = [(cell or spread)(figures, one, metric) for one in contenders]
    return [f"| {label} | {' | '.join(cells)} |"] if any(one != "–" for one in cells) else []


def spread(figures, contender, metric):
    """The median, and from where to where the rounds went."""
    value = figures.median(contender, metric)
    if value is None:
        return "–"
    low, high = figures.span(contender, metric)
    return plain(value) if plain(low) == plain(high) else f"{plain(value)} ({plain(low)}–{plain(high)})"


def total(figures, contender, metric):
    """Trouble is added up over the rounds: a median would hide it."""
    values = figures.values.get((contender, metric))
    return plain(sum(values)) if values else "–"
