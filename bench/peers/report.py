"""Samples become medians, medians become ratios, and both become a table. Nothing here measures."""
import statistics
from collections import defaultdict

OURS = "bumblebee"


def summary(samples):
    """Median and range of `samples`, at least one, in tokens per second."""
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples), "samples": len(samples)}


def summarize(records):
    """One row per series: records {"shape", "threads", "isa", "wanted", "test", "peer", "variant", "round", "samples_ts"}
    grouped by all but the round. `rounds` keeps the median of each round, for ratios within a round."""
    groups = defaultdict(list)
    for record in records:
        key = tuple(record[name] for name in ("shape", "threads", "isa", "wanted", "test", "peer", "variant"))
        groups[key].append(record)
    rows = []
    for key, group in groups.items():
        rounds = defaultdict(list)
        for record in group:
            rounds[record["round"]] += record["samples_ts"]
        row = dict(zip(("shape", "threads", "isa", "wanted", "test", "peer", "variant"), key))
        row |= summary([sample for record in group for sample in record["samples_ts"]])
        row["rounds"] = {number: statistics.median(samples) for number, samples in sorted(rounds.items())}
        rows.append(row)
    return rows


def ratio(ours, peer):
    """Ours over the peer's: of the medians, and the range over the rounds that have both."""
    within = [ours["rounds"][number] / peer["rounds"][number] for number in ours["rounds"] if number in peer["rounds"]]
    return {"ratio": ours["median"] / peer["median"], "min": min(within, default=None), "max": max(within, default=None)}


def compare(rows):
    """For every series of ours, each peer's best variant of the same test and the ratio to it."""
    out = []
    for ours in rows:
        if ours["peer"] != OURS:
            continue
        rivals = [row for row in rows if row["peer"] != OURS and
                  all(row[name] == ours[name] for name in ("shape", "threads", "isa", "wanted"))]
        for peer in dict.fromkeys(row["peer"] for row in rivals):
            best = max((row for row in rivals if row["peer"] == peer), key=lambda row: row["median"])
            out.append({name: ours[name] for name in ("shape", "threads", "isa", "wanted", "test", "variant")} |
                       {"ours": ours["median"], "peer": peer, "peer_test": best["test"], "peer_variant": best["variant"],
                        "theirs": best["median"], **ratio(ours, best)})
    return out


def table(titles, rows):
    """A Markdown table; cells that are numbers stand to the right."""
    cells = [[cell if isinstance(cell, str) else str(cell) for cell in row] for row in rows]
    widths = [max(3, len(title), *(len(row[i]) for row in cells)) if cells else max(3, len(title))
              for i, title in enumerate(titles)]
    right = [bool(rows) and all(not isinstance(row[i], str) for row in rows) for i in range(len(titles))]
    line = lambda row: "| " + " | ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right)) + " |"
    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right)) + "|"
    return "\n".join([line(titles), rule, *(line(row) for row in cells)])


class Number:
    """A figure of a table, in three or more significant digits."""

    def __init__(self, value, after=""):
        self.text = ("" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}")
        self.text += after if self.text else ""

    def __str__(self):
        return self.text


def label(row, test="test", variant="variant"):
    return f"{row[test]} ({row[variant]})" if row[variant] else row[test]


def markdown(result):
    """The whole report of `result`, the dictionary that `-o json` prints."""
    machine = result["machine"]
    parts = [f"# bumblebee and its peers, {machine['date']}", "",
             f"{machine['cpu']}, {machine['cores']} cores ({' '.join(machine['instruction_sets'])}), {machine['memory_gib']} GiB, "
             f"{machine['system']}; load average at the start {machine['load_at_start']}." +
             (f" Card: {machine['card']}." if machine.get("card") else ""), "",
             "Tokens per second, medians over the rounds; a ratio above 1 means that bumblebee is faster, in brackets its range "
             "over the rounds. Of a peer with several settings the fastest stands here; all are further below.", ""]
    parts += [table(["shape", "threads", "kernels", "bumblebee", "tok/s", "peer", "its test", "tok/s", "ratio", "range"],
                    [[row["shape"], row["threads"], row["isa"], label(row), Number(row["ours"]),
                      row["peer"], label(row, "peer_test", "peer_variant"), Number(row["theirs"]), Number(row["ratio"], "x"),
                      "" if row["min"] is None else f"{row['min']:.2f} to {row['max']:.2f}"] for row in result["comparison"]])]
    parts += ["", "## All series", "",
              table(["shape", "threads", "kernels", "peer", "test", "median", "min", "max", "samples"],
                    [[row["shape"], row["threads"], row["isa"], row["peer"], label(row), Number(row["median"]), Number(row["min"]),
                      Number(row["max"]), row["samples"]] for row in result["summary"]])]
    if result["bandwidth"]:
        parts += ["", "## Read bandwidth (GB/s)", "",
                  table(["threads", "median", "min", "max"],
                        [[threads, *(Number(found[name] / 1e9) for name in ("median", "min", "max"))]
                         for threads, found in result["bandwidth"].items()])]
    parts += ["", "## Peers", ""]
    parts += [f"* {name}: " + ", ".join(f"{key} {value}" for key, value in facts.items()) for name, facts in result["facts"].items()]
    parts += [f"* {name}: absent: {reason}" for name, reason in result["absent"].items()]
    if result["notes"]:
        parts += ["", "## Notes", ""] + [f"* {note}" for note in result["notes"]]
    parts += ["", "## Commands", "", "```", result["command"], *result["commands"], "```"]
    return "\n".join(parts) + "\n"
