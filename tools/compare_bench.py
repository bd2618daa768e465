#!/usr/bin/env python3
# Compares two outputs of `bumblebee bench -o json`, or two of `bench_ops --benchmark_format=json`, by shares of the limits that each run
# measured on its own machine: never by times, which depend on the day and on the neighbours.
# Usage: compare_bench.py BASELINE NEW [--tolerance 0.1], or compare_bench.py --record OUTPUT BASELINE, which keeps of an output what
# comparing needs and nothing about the machine's name or paths. Exits with 1 when something is slower than the tolerance allows, with 2
# when the inputs cannot be compared.
import argparse
import json
import math
import sys

# Of bumblebee bench: what makes two rows the same test.
SETTING = ["model", "test", "rows", "backend", "precision", "kv_type", "threads"]
MODEL_FIELDS = SETTING + ["instruction_set", "median_ts", "weight_bytes", "read_bandwidth", "bandwidth_share", "load_s", "first_token_s",
                          "build", "cpu", "date"]
# Of Google Benchmark.
COUNTERS = ["of_peak", "of_read_bandwidth"]
CONTEXT = ["date", "bumblebee_version", "bumblebee_commit", "processor", "instruction_set", "threads", "sizes",
           "read_bandwidth_gb_per_s", "peak_f32_gops", "peak_int8_gops"]


class Unusable(Exception):
    """The inputs cannot be compared; the text says why."""


def positive(value, where):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise Unusable(f"[{where}] expected a positive number, got {value!r}")
    return float(value)


def field(entry, name, where):
    if not isinstance(entry, dict):
        raise Unusable(f"[{where}] expected an object, got {type(entry).__name__}")
    if name not in entry:
        raise Unusable(f"[{where}] {name}: expected a value, got none")
    return entry[name]


def model_shares(row, where):
    """{measure: share} of one row of bumblebee bench; higher is faster. A prompt's measure is how often the weights could have been read
    in the time of a token, inverted; loading's is the time of one read of the weights beside the time to the first token."""
    bandwidth = positive(field(row, "read_bandwidth", where), f"{where}: read_bandwidth")
    if field(row, "test", where) == "load":
        seconds = positive(field(row, "first_token_s", where), f"{where}: first_token_s")
        return {"first token": positive(field(row, "weight_bytes", where), f"{where}: weight_bytes") / bandwidth / seconds}
    share = field(row, "bandwidth_share", where)
    if share is not None:
        return {"of read": positive(share, f"{where}: bandwidth_share")}
    speed = positive(field(row, "median_ts", where), f"{where}: median_ts")
    return {"tokens per read": speed * positive(field(row, "weight_bytes", where), f"{where}: weight_bytes") / bandwidth}


def read_model(rows, where):
    result = {}
    for number, row in enumerate(rows):
        at = f"{where}: row {number}"
        key = " ".join(str(field(row, name, at)) for name in SETTING)
        if key in result:
            raise Unusable(f"[{at}] {key!r} stands there twice")
        result[key] = model_shares(row, at)
    return result, {str(row.get("instruction_set")) for row in rows}


def read_operations(data, where):
    context = field(data, "context", where)
    if field(context, "sizes", f"{where}: context") != "full":
        raise Unusable(f"[{where}] sizes: expected full, got {context['sizes']}; figures of small sizes mean nothing")
    benchmarks = field(data, "benchmarks", where)
    if not isinstance(benchmarks, list):
        raise Unusable(f"[{where}] benchmarks: expected an array, got {type(benchmarks).__name__}")
    medians = [entry for entry in benchmarks if isinstance(entry, dict) and entry.get("aggregate_name") == "median"]
    result = {}
    for entry in medians or benchmarks:
        name = entry.get("run_name", field(entry, "name", where)) if isinstance(entry, dict) else field(entry, "name", where)
        if entry.get("error_occurred"):
            raise Unusable(f"[{where}] {name}: the benchmark failed: {entry.get('error_message')}")
        if name in result:
            raise Unusable(f"[{where}] {name!r} stands there twice; repetitions need --benchmark_report_aggregates_only=true")
        shares = {counter: positive(entry[counter], f"{where}: {name}: {counter}") for counter in COUNTERS if counter in entry}
        if not shares:
            raise Unusable(f"[{where}] {name}: expected one of {', '.join(COUNTERS)}, got none")
        result[name] = shares
    return result, {str(context.get("instruction_set"))}


def load(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise Unusable(f"[{path}] cannot read: {error.strerror}") from error
    except ValueError as error:
        raise Unusable(f"[{path}] expected JSON: {error}") from error


def kind_of(data, path):
    if isinstance(data, list):
        return "bumblebee bench"
    if isinstance(data, dict) and "benchmarks" in data:
        return "bench_ops"
    raise Unusable(f"[{path}] expected the JSON of bumblebee bench or of bench_ops, got something else")


def read(path):
    """(kind, {name: {measure: share}}, instruction sets) of a file."""
    data = load(path)
    kind = kind_of(data, path)
    shares, sets = read_model(data, path) if kind == "bumblebee bench" else read_operations(data, path)
    if not shares:
        raise Unusable(f"[{path}] expected at least one measurement, got none")
    return kind, shares, sets


def compare(baseline, new):
    """[(name, measure, old share, new share)] of what both have. The measure is the limit that the baseline came closer to."""
    rows = []
    for name, old in baseline.items():
        if name not in new:
            continue
        both = [measure for measure in old if measure in new[name]]
        if not both:
            raise Unusable(f"[{name}] expected a measure that both files have, got {', '.join(old)} and {', '.join(new[name])}")
        measure = max(both, key=lambda m: old[m])
        rows.append((name, measure, old[measure], new[name][measure]))
    return rows


def print_table(rows, tolerance):
    width = max(len(name) for name, *_ in rows)
    print(f"{'test':<{width}}  {'measure':<17}  {'baseline':>9}  {'new':>9}  {'ratio':>6}")
    for name, measure, old, now in rows:
        ratio = now / old
        verdict = "  SLOWER" if ratio < 1 - tolerance else "  faster" if ratio > 1 + tolerance else ""
        print(f"{name:<{width}}  {measure:<17}  {old:9.4g}  {now:9.4g}  {ratio:6.2f}{verdict}")


def run_comparison(baseline_path, new_path, tolerance):
    old_kind, baseline, old_sets = read(baseline_path)
    new_kind, new, new_sets = read(new_path)
    if old_kind != new_kind:
        raise Unusable(f"[{new_path}] expected the output of {old_kind}, as in {baseline_path}, got that of {new_kind}")
    rows = compare(baseline, new)
    if not rows:
        raise Unusable(f"[{new_path}] expected a test that {baseline_path} has too, got none")
    if old_sets != new_sets:
        print(f"note: other instruction sets: {', '.join(sorted(old_sets))} and {', '.join(sorted(new_sets))}")
    print_table(rows, tolerance)
    for path, missing in ((new_path, baseline.keys() - new.keys()), (baseline_path, new.keys() - baseline.keys())):
        if missing:
            print(f"not in {path}: {', '.join(sorted(missing))}")
    slower = sum(1 for _, _, old, now in rows if now / old < 1 - tolerance)
    print(f"{len(rows)} compared, {slower} slower than the tolerance of {tolerance:g}")
    return 1 if slower else 0


def record(output_path, baseline_path):
    read(output_path)  # refuses what could never be compared
    data = load(output_path)
    if kind_of(data, output_path) == "bumblebee bench":
        kept = [{name: row[name] for name in MODEL_FIELDS if name in row} for row in data]
    else:
        names = ["name", "run_name", "aggregate_name"] + COUNTERS
        kept = {"context": {name: data["context"][name] for name in CONTEXT if name in data["context"]},
                "benchmarks": [{name: entry[name] for name in names if name in entry} for entry in data["benchmarks"]]}
    with open(baseline_path, "w", encoding="utf-8") as file:
        json.dump(kept, file, indent=1)
        file.write("\n")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Compares two benchmark outputs by shares of each machine's own limits.")
    parser.add_argument("baseline", metavar="BASELINE")
    parser.add_argument("new", metavar="NEW")
    parser.add_argument("--tolerance", type=float, default=0.1, help="how much slower is still equal (default 0.1)")
    parser.add_argument("--record", action="store_true", help="write the first file, reduced, to the second")
    chosen = parser.parse_args(arguments)
    if not 0 <= chosen.tolerance < 1:
        parser.error(f"--tolerance: expected a number from 0 to below 1, got {chosen.tolerance}")
    try:
        if chosen.record:
            record(chosen.baseline, chosen.new)
            return 0
        return run_comparison(chosen.baseline, chosen.new, chosen.tolerance)
    except Unusable as error:
        print(f"compare_bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
