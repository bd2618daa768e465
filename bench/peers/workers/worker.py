"""What the workers of all peers share: a job comes in as JSON in the first argument, results go out as one line of JSON on the
standard output. Standard library only, since it runs in the environments of the peers.

    job      {"model": path, "threads": int, "cases": [{"name", "n_prompt", "n_gen", "depth", "rows"}], ...}
    results  {"results": [{"test", "variant", "samples_ts"}], "facts": {...}}

`samples_ts` are tokens per second, of all rows together; `variant` tells settings of one peer apart.
"""
import json
import os
import random
import sys

VOCAB = 151936  # of every shape


def random_tokens(count):
    return [random.randrange(VOCAB) for _ in range(count)]


def main(engine_type):
    """Makes an engine of `engine_type(job)` and runs each case: `run(case)` gives [{"variant", "samples_ts", ...}]."""
    job = json.loads(sys.argv[1])
    # Libraries print on the standard output as they please; the one line that counts goes to a copy of it.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    random.seed(1)
    engine = engine_type(job)
    results = [{"test": case["name"], **result} for case in job["cases"] for result in engine.run(case)]
    out.write(json.dumps({"results": results, "facts": engine.facts}) + "\n")
    out.flush()
    # Some libraries crash or hang while they take themselves down; the figures are out by now.
    os._exit(0)
