"""The figures of a run: every single one in a file, and their medians."""

import collections
import statistics

from parts.settings import RESULTS


class Figures:
    """All figures of one run, by contender and metric."""

    def __init__(self, facts=()):
        self.facts = list(facts)
        self.rows = []  # (round, contender, metric, value), as they came
        self.values = collections.defaultdict(list)

    def add(self, round_, contender, metric, value):
        self.rows.append((round_, contender, metric, value))
        self.values[contender, metric].append(value)

    def median(self, contender, metric):
        """Nothing if it has not been measured."""
        values = self.values.get((contender, metric))
        return statistics.median(values) if values else None

    def span(self, contender, metric):
        values = self.values[contender, metric]
        return min(values), max(values)

    def contenders(self):
        return list(dict.fromkeys(contender for _, contender, _, _ in self.rows))

    def best(self, metric, contenders, pick):
        """Who is best, and with what: `pick` is `max` or `min`."""
        known = [(self.median(one, metric), one) for one in contenders]
        known = [(value, one) for value, one in known if value is not None]
        return pick(known) if known else (None, None)

    def write(self, path):
        with open(path, "w") as file:
            for name, fact in self.facts:
                file.write(f"# {name}\t{fact}\n")
            file.write("round\tcontender\tmetric\tvalue\n")
            for round_, contender, metric, value in self.rows:
                file.write(f"{round_}\t{contender}\t{metric}\t{value:.6g}\n")


def read(path):
    """What `write` has written."""
    figures = Figures()
    with open(path) as lines:
        for line in lines:
            fields = line.rstrip("\n").split("\t")
            if line.startswith("# "):
                figures.facts.append((fields[0][2:], fields[1]))
            elif fields[0] != "round":
                figures.add(int(fields[0]), fields[1], fields[2], float(fields[3]))
    return figures


def newest():
    """The newest run that has been saved."""
    saved = sorted(RESULTS.glob("2*.tsv"))
    return saved[-1] if saved else None
