"""What the load tests share: the tiny model's server, runs of bench/serve_load.py against it in this process, metrics, adapters made up.

BUMBLEBEE_LOAD=long runs the sizes that docs/serving.md promises, and holds times to their limits; without it the sizes are small, and times
are only printed: no test of every day may fail because a machine is slow.
"""
import argparse
import asyncio
import json
import os
import random
import struct
import sys
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "bench"))
sys.dont_write_bytecode = True
import serve_load  # noqa: E402
from serving import client, process  # noqa: E402

TINY = ROOT / "tests" / "data" / "apps" / "tiny"
LONG = os.environ.get("BUMBLEBEE_LOAD") == "long"
BINARY = None


def size(small, long):
    return long if LONG else small


def server(*flags, port=0, model=TINY):
    return process.ServerProcess(BINARY, model, *flags, port=port)


def options(url, **settings):
    """Options of serve_load; names with _ for -."""
    arguments = ["--url", url]
    for name, value in settings.items():
        arguments += ["--" + name.replace("_", "-"), json.dumps(value) if isinstance(value, dict) else str(value)]
    return serve_load.flags(arguments)


async def load(url, **settings):
    out = await serve_load.measure(options(url, **settings))
    print(json.dumps({"load": {name: str(value) for name, value in settings.items()}, **out}), flush=True)
    return out


async def at_rest(pid):
    """What the process holds; in the long forms once an idle server has given back what it does not use."""
    await asyncio.sleep(size(0, 15))
    return serve_load.process_figures(pid)


def run(url, **settings):
    return asyncio.run(load(url, **settings))


async def get(target, path, method="GET", body=None, key=None):
    outcome = await client.ask(target, method, path, body, key=key)
    return outcome


async def metrics(target):
    """Those of one value by name, those with labels by name{labels}."""
    out = {}
    for line in (await get(target, "/metrics")).body.decode().splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            out[name.removeprefix("bumblebee_")] = float(value)
    return out


async def until(what, condition, seconds=600):
    """Waits for what must come; only a run that hangs ends it."""
    end = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s in vain: {what}")
        await asyncio.sleep(0.05)


async def idle(target):
    """Waits until nothing runs or waits and no page is in use; returns the metrics then."""
    found = {}

    async def is_idle():
        found.update(await metrics(target))
        return found["num_requests_running"] + found["num_requests_waiting"] + found['kv_pages{state="used"}'] == 0
    await until("the server is idle and no page is in use", is_idle)
    return found


class LoadTest(unittest.TestCase):
    def nothing_lost(self, out, *allowed):
        """Every request ended as it may: done, left by script, or one of `allowed`."""
        self.assertEqual((0, 0), (out["lost"], out["stuck"]), out["examples"])
        self.assertLessEqual(set(out["outcomes"]), {"done", "left", *allowed}, out["examples"])


def tensor_file(path, tensors):
    """A safetensors file of f32: {name: (shape, values)}."""
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        raw = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def make_adapter(directory, seed, rank=4):
    """A random adapter of the tiny model, large enough to change what it says."""
    config, draw = json.loads((TINY / "config.json").read_text()), random.Random(seed)
    hidden, heads, dim = config["hidden_size"], config["num_attention_heads"], config["head_dim"]
    directory.mkdir(parents=True)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, out in (("q_proj", heads * dim), ("v_proj", config["num_key_value_heads"] * dim)):
            at = f"base_model.model.model.layers.{layer}.self_attn.{name}."
            tensors[at + "lora_A.weight"] = ([rank, hidden], [draw.gauss(0, 0.3) for _ in range(rank * hidden)])
            tensors[at + "lora_B.weight"] = ([out, rank], [draw.gauss(0, 0.3) for _ in range(out * rank)])
    tensor_file(directory / "adapter_model.safetensors", tensors)
    (directory / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "tiny",
         "bias": "none", "task_type": "CAUSAL_LM"}))


def main():
    global BINARY
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=Path)
    chosen, rest = parser.parse_known_args()
    BINARY = chosen.binary.resolve()
    unittest.main(module="__main__", argv=[sys.argv[0], *rest], verbosity=2)
