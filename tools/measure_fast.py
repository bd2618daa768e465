#!/usr/bin/env python3
"""What the fast mode costs on a real model, beside what 4-bit quantization costs.

The checkpoint is made dense, which is the reference, and quantized anew to 4 bits in groups of 64. KL divergences are means
per token, in nats: of quantizing, KL(dense ‖ 4-bit exact), and of rounding activations, KL(4-bit exact ‖ 4-bit fast).

Usage: tools/measure_fast.py --model DIR --text FILE [--windows 4] [--window 512] [--program build/release/bumblebee]
Needs numpy. The text's first windows·window tokens are used, every window from an empty context.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import numpy as np


def logits_of(path):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(size))["logits"]
        return np.fromfile(file, dtype=np.float32).reshape(entry["shape"]).astype(np.float64)


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--program", default="build/release/bumblebee")
    args = parser.parse_args()

    def run(*words):
        return subprocess.run([args.program, *map(str, words)], check=True, capture_output=True, text=True).stdout

    ids = json.loads(run("tokenize", "-m", args.model, "-f", args.text, "--json"))
    needed = args.windows * args.window
    if len(ids) < needed:
        raise SystemExit(f"[{args.text}] tokens: expected at least {needed}, got {len(ids)}")

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        run("convert", args.model, folder / "dense", "--dequantize", "--dtype", "float32", "--no-progress")
        run("convert", folder / "dense", folder / "four", "--quantize", "--no-progress")
        settings = {
            "dense": ("dense", ["--precision", "exact"]),
            "exact": ("four", ["--precision", "exact"]),
            "fast": ("four", []),
            "fast, f32 keys and values": ("four", ["--kv-type", "f32"]),
            "fast, int8 keys and values": ("four", ["--kv-bits", "8"]),
        }
        kl, loss = {name: [] for name in settings}, {name: [] for name in settings}
        for w in range(args.windows):
            tokens = ids[w * args.window : (w + 1) * args.window]
            p = {}
            for name, (model, flags) in settings.items():
                out = folder / "logits"
                run("logits", "-m", folder / model, "--tokens", ",".join(map(str, tokens)), "-o", out, "--no-progress", *flags)
                p[name] = log_softmax(logits_of(out))
                out.unlink()
                loss[name].append(-p[name][np.arange(len(tokens) - 1), tokens[1:]])
                base = p["dense"] if name in ("dense", "exact") else p["exact"]
                kl[name].append((np.exp(base) * (base - p[name])).sum(axis=-1))
        perplexity = {name: float(np.exp(np.concatenate(values).mean())) for name, values in loss.items()}
        quantizing = float(np.concatenate(kl["exact"]).mean())
        print(f"{needed} tokens; quantizing to 4 bits costs {quantizing:.3e} nats; perplexity dense {perplexity['dense']:.4f}, 4-bit {perplexity['exact']:.4f}")
        for name in list(settings)[2:]:
            added = float(np.concatenate(kl[name]).mean())
            change = perplexity[name] / perplexity["exact"] - 1
            print(f"{name}: KL {added:.3e} nats ({100 * added / quantizing:.2f}% of quantizing), perplexity {perplexity[name]:.4f} ({100 * change:+.3f}%)")


if __name__ == "__main__":
    main()
