#!/usr/bin/env python3
"""Training beside transformers with peft and beside mlx-lm: tokens per second and peak memory on this machine.

Rank 8 on every linear module, AdamW, batches of 1024 tokens in rows of --lengths. peft trains on the dequantized
weights in every dtype of --dtypes; mlx-lm, which takes minutes, on one row a step, and the program on the 4-bit ones. Each runs in a process of its
own, in turns, --rounds times. Needs the packages of tools/goldens/requirements.txt.
"""
import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
GOLDENS = REPOSITORY / "tools" / "goldens"
TOKENS = 1024
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def own_peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rows_of(vocab, length, seed, count=None):
    import numpy as np
    return np.random.default_rng(seed).integers(10, min(vocab, 30000), (count or TOKENS // length, length)).astype("int64")


def worker_peft(model, length, steps, dtype, threads):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(threads)
    torch.cuda.is_current_stream_capturing = lambda: False  # transformers asks even where there is no device to ask
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    loaded = get_peft_model(loaded, LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM"))
    loaded.train()
    optimizer = torch.optim.AdamW([p for p in loaded.parameters() if p.requires_grad], lr=1e-4)
    seconds = []
    for step in range(steps + 1):
        rows = torch.tensor(rows_of(loaded.config.vocab_size, length, step))
        start = time.perf_counter()
        loss = loaded(input_ids=rows, labels=rows, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def worker_mlx(model, length, steps, _, __):
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim
    from mlx_lm.tuner.trainer import default_loss
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model
    mx.set_default_device(mx.cpu)
    loaded, config = load_model(Path(model))
    loaded.freeze()
    linear_to_lora_layers(loaded, -1, {"rank": 8, "scale": 2.0, "dropout": 0.0})
    loaded.train()
    optimizer = optim.AdamW(learning_rate=1e-4)
    gradient = nn.value_and_grad(loaded, default_loss)
    seconds = []
    for step in range(steps + 1):
        rows = mx.array(rows_of(config["vocab_size"], length, step, 1).astype("int32"))
        start = time.perf_counter()
        (_, _), grads = gradient(loaded, rows, mx.array([[0, length - 1]]))
        optimizer.update(loaded, grads)
        mx.eval(loaded.parameters(), optimizer.state)
        seconds.append((time.perf_counter() - start) * (TOKENS // length))
    return seconds[1:]


def run_ours(arguments, model, length, steps, extra):
    """The program on rows of the same lengths: words of one token each, cut at --max-seq-length."""
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        data.mkdir()
        text = arguments.text.read_text()
        size = 8 * length  # characters; more than length tokens of any text
        rows = [text[i:i + size] for i in range(0, len(text) - size, size // 2)]
        count = TOKENS // length
        rows = (rows * (count * (steps + 1) // max(len(rows), 1) + 1))[:max(count * (steps + 1), count)]
        (data / "train.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
        out = Path(scratch) / "adapters"
        command = ["/usr/bin/time", "-f", "%M", str(arguments.binary), "train", "-m", str(model), "--data", str(data),
                   "--num-layers", "-1", "--rank", "8", "--scale", "2", "--optimizer", "adamw", "--learning-rate", "1e-4",
                   "--batch-size", str(count), "--max-seq-length", str(length), "--iters", str(steps + 1),
                   "--steps-per-report", "1", "--val-batches", "0", "--save-every", "100000", "--no-verify-base",
                   "--no-progress", "--threads", str(arguments.threads), "--adapter-path", str(out), *extra]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr[-800:])
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        reports = [line for line in lines if line.get("type") == "train"][1:]
        seconds = [1 / line["iterations_per_second"] for line in reports]
        return seconds, int(done.stderr.strip().splitlines()[-1]) * 1024


def run_worker(arguments, name, model, length, steps, dtype):
    command = [sys.executable, __file__, "--worker", name, "--model", str(model), "--length", str(length), "--steps",
               str(steps), "--dtype", dtype, "--threads", str(arguments.threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout)
    if done.returncode != 0:
        raise SystemExit(f"{name}: {done.stderr[-800:]}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return result["seconds"], result["peak"]


def dense_copy(model, folder):
    """The dequantized weights in bf16, as transformers reads them."""
    sys.path.insert(0, str(GOLDENS))
    from adapters import base_weights
    from common import store, write_json, write_safetensors
    config, weights = base_weights(Path(model).resolve())
    write_json(folder / "config.json", config | {"torch_dtype": "bfloat16"})
    write_safetensors(folder / "model.safetensors", {k: store(v, "bf16") for k, v in weights.items()}, {"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (Path(model) / name).exists():
            shutil.copy(Path(model) / name, folder / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--lengths", default="256,1024")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--peers", default="peft,mlx-lm")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timeout", type=int, default=900)
    parser.add_argument("--text", type=Path, default=Path("/usr/share/common-licenses/GPL-3"))
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "build" / "release" / "bumblebee")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work = {"peft": worker_peft, "mlx-lm": worker_mlx}[arguments.worker]
        seconds = work(arguments.model, arguments.length, arguments.steps, arguments.dtype, arguments.threads)
        print(json.dumps({"seconds": seconds, "peak": own_peak()}))
        return 0
    peers = arguments.peers.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        dense = Path(scratch)
        if "peft" in peers:
            dense_copy(arguments.model, dense)
        print("| rows of | who | tokens/s | peak memory |\n|---|---|---|---|", flush=True)
        for length in map(int, arguments.lengths.split(",")):
            runs = [("bumblebee", lambda: run_ours(arguments, arguments.model, length, arguments.steps, [])),
                    ("bumblebee --grad-checkpoint",
                     lambda: run_ours(arguments, arguments.model, length, arguments.steps, ["--grad-checkpoint"]))]
            if "peft" in peers:
                for dtype in arguments.dtypes.split(","):
                    runs.append((f"transformers + peft, {dtype}", lambda dtype=dtype: run_worker(
                        arguments, "peft", dense, length, arguments.steps, dtype)))
            if "mlx-lm" in peers:
                runs.append(("mlx-lm, CPU", lambda: run_worker(arguments, "mlx-lm", arguments.model, length, 1, "-")))
            seen = {who: [] for who, _ in runs}
            for _ in range(arguments.rounds):
                for who, run in runs:
                    seen[who].append(run())
                    seconds, peak = seen[who][-1]
                    print(f"{length}, {who}: {TOKENS / statistics.median(seconds):.1f} tokens/s, {peak / 1e9:.2f} GB",
                          file=sys.stderr, flush=True)
            for who, results in seen.items():
                seconds = statistics.median(s for result in results for s in result[0])
                peak = max(result[1] for result in results)
                print(f"| {length} | {who} | {TOKENS / seconds:.3g} | {peak / 1e9:.2f} GB |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
