#!/usr/bin/env python3
"""Measures what `bumblebee serve` promises of itself, on a random model of a published shape: throughput with a breakdown of its steps, eight
adapters mixed beside none, the first token of a prompt whose beginning is in the cache beside one that is not, streams that go on while a
long prompt is computed. Prints one JSON object. Figures belong to the processor that is named in it.

    bench/serve_figures.py --shape 1.7b --rounds 3
"""
import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
sys.dont_write_bytecode = True
import serve_load  # noqa: E402
from make_random_checkpoint import SHAPES, repeated  # noqa: E402
from peers import machine, servers  # noqa: E402
from peers.cache import ROOT, Cache  # noqa: E402
from serving.client import Target, ask  # noqa: E402
from serving.process import ServerProcess  # noqa: E402

RANK = 16
LINEAR = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def adapter_tensors(shape):
    """(name, [rows, columns]) of a PEFT adapter on every linear layer."""
    layers, hidden, heads, kv_heads, dim, inner, _ = shape
    sizes = {"self_attn.q_proj": (heads * dim, hidden), "self_attn.k_proj": (kv_heads * dim, hidden), "self_attn.v_proj": (kv_heads * dim, hidden),
             "self_attn.o_proj": (hidden, heads * dim), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
             "mlp.down_proj": (hidden, inner)}
    for layer in range(layers):
        for name in LINEAR:
            out, columns = sizes[name]
            at = f"base_model.model.model.layers.{layer}.{name}."
            yield at + "lora_A.weight", [RANK, columns]
            yield at + "lora_B.weight", [out, RANK]


def write_adapter(directory, shape):
    """A random adapter: bf16 values of either sign around 0.004."""
    directory.mkdir(parents=True)
    block = bytes(byte for pair in zip(os.urandom(1 << 18), os.urandom(1 << 18)) for byte in (pair[0], 0x3B | (pair[1] & 0x80)))
    header, offset = {}, 0
    for name, dims in adapter_tensors(shape):
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [offset, offset + 2 * dims[0] * dims[1]]}
        offset += 2 * dims[0] * dims[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(directory / "adapter_model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for piece in repeated(block, offset):
            file.write(piece)
    (directory / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": [name.split(".")[1] for name in LINEAR], "bias": "none",
         "task_type": "CAUSAL_LM", "base_model_name_or_path": "random"}))


async def steps(target):
    """Seconds by part and the number of steps, since the start."""
    out = {}
    for line in (await ask(target, "GET", "/metrics")).body.decode().splitlines():
        if line.startswith(("bumblebee_step_seconds_total{", "bumblebee_steps_total ", "bumblebee_rows_total ")):
            name, value = line.rsplit(" ", 1)
            out[name.split('"')[1] if '"' in name else name.removeprefix("bumblebee_").removesuffix("_total")] = float(value)
    return out


async def load(url, case, seed, **settings):
    arguments = ["--url", url, "--connections", str(case.streams), "--requests", str(case.streams), "--prompt-tokens", str(case.prompt),
                 "--max-tokens", str(case.tokens), "--stuck", "3600", "--seed", str(seed), "--field", '{"ignore_eos": true}']
    for name, value in settings.items():
        arguments += ["--" + name, value]
    out = await serve_load.measure(serve_load.flags(arguments))
    if out["outcomes"] != {"done": case.streams}:
        raise SystemExit(f"[serve_figures] expected {case.streams} answers, got {out['outcomes']}: {out['examples']}")
    return out


async def throughput(target, url, case, seed, names):
    before = await steps(target)
    base = await load(url, case, seed)
    after = await steps(target)
    spent = {name: after[name] - before[name] for name in after}
    inside = sum(spent[name] for name in ("plan", "compute", "sample", "text"))
    out = {"tokens_per_second": base["tokens_per_second"], "first_token_ms": base["first_token_ms"], "between_tokens_ms": base["between_tokens_ms"],
           "seconds": base["seconds"], "steps": spent["steps"], "rows": spent["rows"],
           "share_of_seconds": {name: round(spent[name] / base["seconds"], 4) for name in ("plan", "compute", "sample", "text")},
           "share_outside_steps": round(1 - inside / base["seconds"], 4)}
    if names:
        out["adapters_tokens_per_second"] = (await load(url, case, seed + 1, models=",".join(names)))["tokens_per_second"]
        out["adapters_of_base"] = round(out["adapters_tokens_per_second"] / out["tokens_per_second"], 3)
    return out


async def first_token(target, prompt):
    body = {"prompt": prompt, "max_tokens": 4, "stream": True, "ignore_eos": True, "temperature": 0, "stream_options": {"include_usage": True}}
    outcome = await ask(target, "POST", "/v1/completions", body)
    return outcome.waited(), (outcome.usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


async def prefix(target, tokens, seed):
    """Milliseconds to the first token of a prompt of `tokens` and 16 more, when the server has not seen it and when it has its beginning."""
    beginning = serve_load.digits(tokens, "prefix", seed)
    cold, _ = await first_token(target, beginning + serve_load.digits(16, "cold", seed))
    warm, cached = await first_token(target, beginning + serve_load.digits(16, "warm", seed))
    return {"cold_ms": round(1000 * cold, 1), "warm_ms": round(1000 * warm, 1), "warm_of_cold": round(warm / cold, 4), "cached_tokens": cached}


async def beside(target, url, tokens, seed):
    """What eight streams feel while a prompt of `tokens` is computed."""
    task = asyncio.create_task(load(url, servers.ServeCase(8, 16, 400), seed))
    await asyncio.sleep(5)
    wait, _ = await first_token(target, serve_load.digits(tokens, "long", seed))
    out = await task
    return {"between_tokens_ms": out["between_tokens_ms"], "long_prompt_first_token_ms": round(1000 * wait, 1)}


async def measure(server, options, names):
    target, rounds = Target(server.url, stuck=3600), []
    await load(server.url, servers.ServeCase(2, 8, 2), 0)
    for number in range(1, options.rounds + 1):
        seed = 1000 * number
        found = {"throughput": await throughput(target, server.url, servers.parse(options.test), seed, names),
                 "prefix": await prefix(target, options.prefix, seed)}
        if options.long:
            found["beside_a_long_prompt"] = await beside(target, server.url, options.long, seed)
        print(f"serve_figures: round {number}: {json.dumps(found)}", file=sys.stderr, flush=True)
        rounds.append(found)
    target.close()
    return rounds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shape", choices=[name.removeprefix("qwen3-") for name in SHAPES], default="1.7b", help="of Qwen3 (default %(default)s)")
    add("--model", type=Path, help="a directory instead of a random model of --shape; then without adapters")
    add("--test", default="16x128+128", help="STREAMSxPROMPT+TOKENS (default %(default)s)")
    add("--prefix", type=int, default=2048, help="tokens of a beginning that is asked for again (default %(default)s)")
    add("--long", type=int, default=4096, help="tokens of a prompt that eight streams go on beside; 0: not measured (default %(default)s)")
    add("--adapters", type=int, default=8, help="of rank 16 on every linear layer (default %(default)s)")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="(default: one per processor)")
    add("--rounds", type=int, default=3, help="(default %(default)s)")
    add("--binary", type=Path, default=ROOT / "build" / "release" / "bumblebee", help="(default build/release/bumblebee)")
    options = parser.parse_args()
    cache = Cache(os.environ.get("BB_CACHE") or "~/.cache/bumblebee-peers", lambda text: print(f"serve_figures: {text}", file=sys.stderr))
    here, names, flags = machine.this_machine(), [], ["-t", options.threads, "--parallel", servers.parse(options.test).streams]
    with tempfile.TemporaryDirectory() as scratch:
        for i in range(0 if options.model else options.adapters):
            names.append(f"a{i}")
            write_adapter(Path(scratch) / names[-1], SHAPES[f"qwen3-{options.shape}"])
            flags += ["--adapter", f"{names[-1]}={scratch}/{names[-1]}"]
        with ServerProcess(options.binary, options.model or servers.checkpoint(cache, options.shape), *flags) as server:
            rounds = asyncio.run(measure(server, options, names))
            status = server.end()
    medians = {"tokens_per_second": [one["throughput"]["tokens_per_second"] for one in rounds],
               "adapters_of_base": [one["throughput"].get("adapters_of_base") for one in rounds if names],
               "share_outside_steps": [one["throughput"]["share_outside_steps"] for one in rounds],
               "warm_of_cold": [one["prefix"]["warm_of_cold"] for one in rounds]}
    medians = {name: statistics.median(values) for name, values in medians.items() if values}
    print(json.dumps({"machine": here, "threads": options.threads, "medians": medians, "rounds": rounds, "exit_status": status}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
