#!/usr/bin/env python3
"""Load for a server with OpenAI's API: a thousand streams from one process, in a closed or an open loop, with clients that stall or
leave at named moments. Prints one JSON object: rates, waiting times, classes of errors, what was lost, what the server's process held.

    bench/serve_load.py --url http://127.0.0.1:8080 --connections 64 --requests 1000
    bench/serve_load.py --url ... --rate 200 --seconds 60                       # open loop: arrivals do not wait for answers
    bench/serve_load.py --url ... --requests 2000 --fault leave@header=0.1,leave@token=0.3,stall@token=0.1

Prompts are decimal digits, which tokenizers take one by one: their length in tokens is known beforehand, and the report says what the
server counted. Whatever is random follows from --seed and the number of the request, not from timing. Standard library only.
"""
import argparse
import asyncio
import json
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
from serving.client import MOMENTS, Fault, Target, ask  # noqa: E402


def digits(count, *seed):
    """A prompt of `count` tokens."""
    draw = random.Random("/".join(map(str, seed)))
    return "".join(draw.choice("0123456789") for _ in range(count))


def draw_fault(shares, draw, options):
    """Which of `shares`, [(action, moment, share)], befalls a request; mostly none."""
    at = draw.random()
    token, seconds, reset = draw.randint(1, max(1, options.max_tokens)), draw.uniform(0, 0.05), draw.random() < 0.5
    for action, moment, share in shares:
        at -= share
        if at < 0:
            return Fault(action, moment, token, options.stall if action == "stall" else seconds, reset)
    return None


def request_of(number, options):
    """(path, body, fault) of request `number`."""
    draw = random.Random(f"{options.seed}/{number}")
    which = number % options.prompts if options.prompts else number
    prompt = digits(draw.randint(*options.prompt_tokens) if not options.prompts else options.prompt_tokens[1], options.seed, "prompt", which)
    body = {"max_tokens": options.max_tokens, "stream": draw.random() >= options.plain, "temperature": 0.0}
    if options.models:
        body["model"] = draw.choice(options.models)
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
    body.update(options.field)
    fault = draw_fault(options.fault, draw, options)
    if fault and fault.moment == "token" and not body["stream"]:
        fault.moment = "prefill"  # there are no pieces; somewhere in its work is what can be had
    if options.endpoint == "chat":
        return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": prompt}]}, fault
    return "/v1/completions", {**body, "prompt": prompt}, fault


def process_figures(pid):
    """Resident bytes, descriptors and threads of a process; None when it is gone."""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return {"rss_kb": int(fields["VmRSS"].split()[0]), "fds": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
                "threads": int(fields["Threads"])}
    except (OSError, KeyError):
        return None


async def watch_process(pid, figures):
    while (now := process_figures(pid)) is not None:
        for name, value in now.items():
            kept = figures.setdefault(name, {"start": value, "max": value})
            kept["max"], kept["end"] = max(kept["max"], value), value
        await asyncio.sleep(0.5)
    figures["gone"] = True


async def run_load(target, options, outcomes, started):
    """Fills `outcomes`, all requests of a run."""
    numbers, until = iter(range(options.requests or sys.maxsize)), started + (options.seconds or float("inf"))

    async def one(number):
        path, body, fault = request_of(number, options)
        outcomes.append(await ask(target, "POST", path, body, fault=fault))

    async def client():
        for number in numbers:
            if time.monotonic() >= until:
                return
            await one(number)

    if not options.rate:
        await asyncio.gather(*(client() for _ in range(options.connections)))
        return
    arrivals, at, running = random.Random(f"{options.seed}/arrivals"), started, set()
    for number in numbers:
        at += arrivals.expovariate(options.rate)
        if at >= until:
            break
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        task = asyncio.create_task(one(number))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)


def spread(values, scale=1000.0):
    """Median, 99th percentile and largest, in milliseconds."""
    ordered = sorted(values)
    at = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] * scale for share in (0.5, 0.99)] if ordered else []
    return {"count": len(ordered), "p50": round(at[0], 3), "p99": round(at[1], 3), "max": round(ordered[-1] * scale, 3)} if at else {"count": 0}


def report(outcomes, seconds, options):
    kinds, done = Counter(one.kind for one in outcomes), [one for one in outcomes if one.kind == "done"]
    examples = {one.kind: one.detail for one in outcomes if one.kind not in ("done", "left")}
    # A client that stalls hears nothing by its own will, and one that leaves may leave before the first comment.
    quiet = [one for one in outcomes if one.kind == "done" and one.streams and one.waited() > options.keep_alive * 1.5]
    statuses = sorted({one.status for one in outcomes if one.status})
    tokens = sum(one.usage.get("completion_tokens", one.pieces) for one in done)
    return {
        "seconds": round(seconds, 3), "requests": len(outcomes), "outcomes": dict(sorted(kinds.items())), "examples": examples,
        "lost": kinds["lost"] + kinds["reset"] + kinds["bad_http"] + kinds["bad_json"], "stuck": kinds["stuck"],
        "left": dict(Counter(one.detail for one in outcomes if one.kind == "left")),
        "prompt_tokens": sum(one.usage.get("prompt_tokens", 0) for one in done), "completion_tokens": tokens,
        "cached_tokens": sum((one.usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0) for one in done),
        "tokens_per_second": round(tokens / seconds, 2), "requests_per_second": round(len(done) / seconds, 2),
        "first_token_ms": spread([one.waited() for one in done if one.first]),
        "between_tokens_ms": spread([gap for one in done for gap in one.gaps]),
        "answer_ms": {str(status): spread([one.ended - one.begun for one in outcomes if one.status == status and one.kind != "left"])
                      for status in statuses},
        "keep_alives": {"heard": sum(one.keep_alives for one in outcomes), "streams_that_waited": len(quiet),
                        "of_these_heard_none": sum(1 for one in quiet if one.keep_alives == 0),
                        "longest_silence_ms": round(1000 * max((one.silence for one in done), default=0.0), 1)},
    }


def shares(text):
    out = []
    for part in text.split(","):
        name, _, share = part.partition("=")
        action, _, moment = name.partition("@")
        if action not in ("leave", "stall") or moment not in MOMENTS:
            raise argparse.ArgumentTypeError(f"expected leave@MOMENT=SHARE or stall@MOMENT=SHARE with one of {', '.join(MOMENTS)}; got {part!r}")
        out.append((action, moment, float(share or 1)))
    return out


def flags(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--url", required=True)
    add("--key", default="", help="an API key")
    add("--endpoint", choices=("completions", "chat"), default="completions", help="(default %(default)s)")
    add("--connections", type=int, default=16, help="clients of the closed loop (default %(default)s)")
    add("--rate", type=float, default=0, help="arrivals a second of the open loop; 0: closed")
    add("--requests", type=int, default=0, help="how many in all; 0: as many as fit into --seconds")
    add("--seconds", type=float, default=0, help="no request begins after this time; 0: no limit")
    add("--prompt-tokens", type=lambda text: [int(part) for part in (text + "-" + text).split("-")[:2]], default=[128, 128],
        help="N or LEAST-MOST (default 128)")
    add("--prompts", type=int, default=0, help="so many different prompts in turns, all of the most tokens; 0: each its own")
    add("--max-tokens", type=int, default=128, help="(default %(default)s)")
    add("--models", type=lambda text: text.split(","), default=[], help="names, one drawn for each request")
    add("--field", type=json.loads, default={}, help='more fields of the body, a JSON object: \'{"ignore_eos": true}\'')
    add("--plain", type=float, default=0, help="share of requests that do not stream")
    add("--fault", type=shares, default=[], help=f"leave@MOMENT=SHARE and stall@MOMENT=SHARE between commas; {', '.join(MOMENTS)}")
    add("--stall", type=float, default=5, help="seconds of a stall (default %(default)s)")
    add("--stuck", type=float, default=120, help="seconds without a byte that make a stream stuck (default %(default)s)")
    add("--keep-alive", type=float, default=10, help="seconds between comments that the server promises (default %(default)s)")
    add("--pid", type=int, default=0, help="of the server: its memory, descriptors and threads are watched")
    add("--settle", type=float, default=2, help="seconds after the last answer until the process is looked at once more")
    add("--seed", type=int, default=1, help="(default %(default)s)")
    options = parser.parse_args(arguments)
    if not options.requests and not options.seconds:
        parser.error("expected --requests or --seconds")
    return options


async def measure(options):
    """The report of one run."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    target, outcomes, figures = Target(options.url, options.key, options.stuck), [], {}
    watcher = asyncio.create_task(watch_process(options.pid, figures)) if options.pid else None
    await asyncio.sleep(0)  # the process as it is before the first request
    started = time.monotonic()
    await run_load(target, options, outcomes, started)
    out = report(outcomes, max((one.ended for one in outcomes), default=started) - started or 1e-9, options)
    target.close()
    if watcher:
        await asyncio.sleep(options.settle)
        watcher.cancel()
        out["process"] = figures
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return out


def main():
    out = asyncio.run(measure(flags()))
    print(json.dumps(out, indent=1))
    return 1 if out["lost"] or out["stuck"] else 0


if __name__ == "__main__":
    sys.exit(main())
