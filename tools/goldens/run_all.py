#!/usr/bin/env python3
"""Makes all goldens (models, quantization, sampling, patterns, GGUF blocks, tokens, templates) afresh and holds the committed ones to them; exits 1 on a difference.

Installs its own environment (requirements.txt, about 2 GB) in a cache directory the first time. Where the program has
been built, it also compares every width with mlx-lm; with --smollm2 DIR --gguf FILE the real model too.
"""
import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
DATA = REPOSITORY / "tests" / "data"
CACHE = Path(os.environ.get("BUMBLEBEE_ORACLES", Path.home() / ".cache" / "bumblebee-oracles")) / "models"
# Sums in float64 depend on the processor's vector width in their last bits; everything else is compared bit for bit.
TOLERANCE = {"float64": 1e-10, "float32": 1e-6}


def environment():
    """The interpreter that has the packages, installed when requirements.txt is new or has changed."""
    python, stamp = CACHE / "bin" / "python", CACHE / "requirements.sha256"
    wanted = hashlib.sha256((HERE / "requirements.txt").read_bytes()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == wanted):
        print(f"installing the oracles' packages into {CACHE}", flush=True)
        venv.create(CACHE, with_pip=True)
        # The list is complete and pinned; without dependencies, torch leaves two gigabytes of CUDA libraries out.
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r",
                        HERE / "requirements.txt"], check=True)
        subprocess.run([python, HERE / "cpu_torch.py"], check=True)
        stamp.write_text(wanted)
    return python


def compare_tensors(fresh, committed):
    """A sentence about the first difference, or "" where the files hold the same tensors."""
    from common import BF16, errors, read_safetensors
    a, b = read_safetensors(fresh), read_safetensors(committed)
    if a.keys() != b.keys():
        return f"other tensors: {sorted(a.keys() ^ b.keys())[:4]}"
    worst = 0.0
    for name in a:
        left, right = (v.bits if isinstance(v, BF16) else v for v in (a[name], b[name]))
        kind = right.dtype.name
        exact = not (committed.name == "golden.safetensors" or kind == "float64")
        if left.shape != right.shape or left.dtype != right.dtype:
            return f"{name}: other shape or dtype"
        if exact or kind not in TOLERANCE:
            if left.tobytes() != right.tobytes():
                return f"{name}: other bits"
        else:
            gap = errors(left, right)[0]
            worst = max(worst, gap)
            if not gap <= TOLERANCE[kind]:
                return f"{name}: differs by {gap:.1e}"
    return "" if not worst else f"={worst:.0e}"


def compare_trees(fresh, committed):
    wrong = 0
    files = sorted({p.relative_to(root) for root in (fresh, committed) for p in root.rglob("*") if p.is_file()})
    files = [f for f in files if f.name not in ("mlx.json", "oracle.json")]
    for file in files:
        a, b = fresh / file, committed / file
        if not (a.exists() and b.exists()):
            verdict = "not committed" if a.exists() else "no script makes it"
        elif a.read_bytes() == b.read_bytes():
            verdict = ""
        else:
            verdict = compare_tensors(a, b) if file.suffix == ".safetensors" else "other bytes"
        bad = bool(verdict) and not verdict.startswith("=")
        wrong += bad
        told = verdict if bad else f"same within {verdict[1:]}" if verdict else "same, every bit"
        print(f"{'DIFFERS' if bad else 'ok':8} {str(file):58} {told}")
    print(f"{len(files)} files, {wrong} differ")
    return wrong


def inside(arguments):
    """Runs in the environment."""
    wrong = 0

    def script(name, *rest):
        nonlocal wrong
        print(f"== {name} {' '.join(map(str, rest))}", flush=True)
        wrong += subprocess.run([sys.executable, HERE / name, *rest]).returncode != 0

    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "goldens"
        script("quant.py", "--out", fresh)
        script("models.py", "--out", fresh / "models")
        script("widths.py", "--goldens", "--out", fresh / "widths")
        script("dense.py", "--out", fresh / "dense")
        script("experts.py", "--out", fresh / "experts")
        script("mla.py", "--out", fresh / "mla")
        script("gemma.py", "--out", fresh / "gemma")
        script("delta.py", "--out", fresh / "delta")
        script("lfm2.py", "--out", fresh / "lfm2")
        script("float_codes.py", "--out", fresh)
        script("gpt_oss.py", "--out", fresh / "gpt_oss")
        script("patterns.py", "--out", fresh / "patterns.json")
        script("sampler.py", "--out", fresh / "sampler.json")
        script("adapters.py", "--out", fresh / "adapters")
        script("training.py", "--out", fresh / "training")
        script("train_data.py", "--out", fresh / "train_data.json")
        wrong += compare_trees(fresh, DATA / "goldens")
        script("gguf_files.py", "--out", Path(scratch) / "gguf")
        wrong += compare_trees(Path(scratch) / "gguf", DATA / "gguf")
        text = Path(scratch) / "text"
        script("text_templates.py", "--templates", DATA / "text" / "templates", "--out", text / "rendered")
        wrong += compare_trees(text / "rendered", DATA / "text" / "rendered")
        tokenizers = subprocess.run(["bash", REPOSITORY / "tools" / "fetch_tokenizers.sh"], check=True, text=True,
                                    stdout=subprocess.PIPE).stdout.strip()
        script("text_templates.py", "--tokenizers", tokenizers, "--out", text / "rendered_fetched")
        wrong += compare_trees(text / "rendered_fetched", DATA / "text" / "rendered_fetched")
        script("text_tokens.py", "--tokenizers", tokenizers, "--out", text / "tokens")
        wrong += compare_trees(text / "tokens", DATA / "text" / "tokens")
        if arguments.binary.exists():
            script("widths.py", "--out", Path(scratch) / "grid", "--binary", arguments.binary)
            script("hub_cache.py", "--binary", arguments.binary)
            script("mlx_names.py", "--binary", arguments.binary)
        else:
            print(f"== the widths were not compared with mlx-lm, nor the cache with huggingface_hub: {arguments.binary} has not been built")
    if arguments.gguf:
        rest = ["--model", arguments.smollm2] if arguments.smollm2 else []
        script("smollm2.py", "--gguf", arguments.gguf, *rest, "--out", CACHE / "smollm2", "--binary", arguments.binary)
    print("oracles: " + ("all agree" if not wrong else f"{wrong} disagree"))
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "build" / "release" / "bumblebee")
    parser.add_argument("--gguf", type=Path, help="the SmolLM2 GGUF, for the comparison with the real model")
    parser.add_argument("--smollm2", type=Path, help="the directory that was converted from it")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return inside(arguments)
    return subprocess.run([environment(), __file__, "--inside", *sys.argv[1:]]).returncode


if __name__ == "__main__":
    sys.exit(main())
