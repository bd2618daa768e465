"""Random quantized checkpoints of every width, and who is closer to float64: mlx-lm or this project.

Default: makes the full grid under --out (every width and group; tied or not; one file, shards, shards with an index;
f16, bf16, f32 scales; heads·head_dim != hidden; 4:1 grouped heads), runs mlx-lm and build/release/bumblebee on the
same files, prints both errors against a float64 pass over the decoded weights, and exits 1 where ours is worse.
With --goldens: writes the small committed subset, with float64 logits, instead.
"""
import argparse
import sys
import tempfile
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np

import float64
import program
from common import GOLDENS, dequantize64, errors, read_safetensors, store, widen, write_json, write_safetensors
from mlx_logits import mlx_logits
from models import LLAMA, LLAMA3_ROPE, QWEN2, QWEN3, TORCH, make_weights
from quant import BITS, GROUPS, from_mx, to_mx

DTYPES = ("f16", "bf16", "f32")
SHARDS = ("one", "shards", "indexed")
LARGE = {"hidden_size": 256, "intermediate_size": 384, "vocab_size": 512, "head_dim": 64}
SMALL = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 64, "head_dim": 16}
SMALL_64 = SMALL | {"intermediate_size": 64}
SMALL_128 = {"hidden_size": 128, "intermediate_size": 128, "vocab_size": 64, "head_dim": 32, "num_hidden_layers": 1}
QWEN2_128 = {k: v for k, v in (QWEN2 | {"hidden_size": 128, "intermediate_size": 128, "vocab_size": 64,
                                        "num_hidden_layers": 1}).items()}
# One of each kind of entry. A dict takes nothing from the top level: no mode is affine, null is that mode's default.
OVERRIDES = {
    "lm_head": False,
    "model.embed_tokens": True,
    "model.norm": False,
    "model.layers.0.input_layernorm": False,
    "model.layers.0.self_attn.q_proj": {"group_size": None, "bits": None, "mode": "affine"},
    "model.layers.0.self_attn.o_proj": {"group_size": 128, "bits": 3},
    "model.layers.0.mlp.down_proj": {"group_size": 64, "bits": 8},
    "model.layers.1.mlp.up_proj": {"group_size": 32, "bits": 6, "mode": "affine"},
    "model.layers.1.mlp.gate_proj": False,
    "model.layers.1.self_attn.v_proj": {"bits": 2},
}


def spec(base, dims, bits, group, dtype, tied=False, shards="one", overrides=None, mode=True, twin=True):
    return {"config": base | dims | {"tie_word_embeddings": tied, "torch_dtype": TORCH[dtype]}, "bits": bits,
            "group": group, "dtype": dtype, "shards": shards, "overrides": overrides or {}, "mode": mode, "twin": twin}


GOLDEN_CASES = {
    "b4_g64_tied_bf16": spec(LLAMA, SMALL_64, 4, 64, "bf16", tied=True),
    "b3_g128_shards_f16": spec(QWEN3, SMALL_128, 3, 128, "f16", shards="shards"),
    "b5_g32_indexed_f32": spec(LLAMA, SMALL, 5, 32, "f32", shards="indexed"),
    "b2_g128_no_mode_tied_bf16": spec(QWEN2_128, {}, 2, 128, "bf16", tied=True, mode=False, twin=False),
    "b6_g64_f16": spec(QWEN3, SMALL_64, 6, 64, "f16"),
    "b8_g32_tied_f32": spec(LLAMA | {"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE},
                            SMALL | {"num_hidden_layers": 1}, 8, 32, "f32", tied=True),
    "mixed_overrides_bf16": spec(LLAMA, SMALL_64, 4, 32, "bf16", overrides=OVERRIDES, mode=False),
}


def grid():
    cases = {}
    for b, bits in enumerate(BITS):
        for g, group in enumerate(GROUPS):
            for tied in (False, True):
                dtype = DTYPES[(b + g + tied) % 3]
                shards = SHARDS[(b + 2 * g + tied) % 3]
                base = (LLAMA, QWEN3)[(b + g) % 2]
                name = f"b{bits}_g{group}_{dtype}_{'tied' if tied else 'head'}_{shards}"
                cases[name] = spec(base, LARGE, bits, group, dtype, tied, shards)
    cases["mixed"] = spec(LLAMA, LARGE, 4, 32, "bf16", overrides=OVERRIDES, mode=False)
    return cases


def width_of(case, path):
    """(bits, group) of a module, or None where it stays float."""
    if path not in case["overrides"] or case["overrides"][path] is True:
        return case["bits"], case["group"]
    entry = case["overrides"][path]
    return (entry.get("bits") or 4, entry.get("group_size") or 64) if entry else None


def write_shards(folder, tensors, shards):
    if shards == "one":
        # No padding: the data then starts at any byte, as in the files that MLX writes.
        write_safetensors(folder / "model.safetensors", tensors, {"format": "mlx"}, pad=False)
        return
    names, where = sorted(tensors), {}
    for part in range(3):
        file = f"model-{part + 1:05}-of-00003.safetensors"
        mine = names[part::3]  # a layer's codes and scales land in different files, as nothing forbids
        write_safetensors(folder / file, {name: tensors[name] for name in mine}, {"format": "mlx"}, pad=part == 0)
        where |= dict.fromkeys(mine, file)
    if shards == "indexed":
        write_json(folder / "model.safetensors.index.json",
                   {"metadata": {"total_size": sum(v.nbytes for v in tensors.values())},
                    "weight_map": dict(sorted(where.items()))})


def make(name, case, folder):
    """Writes the checkpoint and returns its weights as float64."""
    tensors, exact = {}, {}
    for key, value in make_weights(case["config"], zlib.crc32(name.encode())).items():
        stored, path = store(value, case["dtype"]), key.removesuffix(".weight")
        width = width_of(case, path) if key.endswith(".weight") and value.ndim == 2 else None
        if width is None:
            tensors[key], exact[key] = stored, widen(stored)
            continue
        bits, group = width
        triplet = [from_mx(v) for v in mx.quantize(to_mx(stored), group_size=group, bits=bits, stream=mx.cpu)]
        tensors |= dict(zip((key, path + ".scales", path + ".biases"), triplet))
        exact[key] = dequantize64(*triplet, bits, group)
    top = {"group_size": case["group"], "bits": case["bits"]} | ({"mode": "affine"} if case["mode"] else {})
    quantization = {"quantization": top | case["overrides"]}
    if case["twin"]:
        quantization["quantization_config"] = quantization["quantization"]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", dict(sorted((case["config"] | quantization).items())))
    write_shards(folder, tensors, case["shards"])
    return exact


def exact_logits(case, exact, tokens):
    with tempfile.TemporaryDirectory() as scratch:  # transformers must not see the quantization
        write_json(Path(scratch) / "config.json", case["config"])
        return float64.logits(float64.build(scratch, exact), tokens)


def tokens_of(name, case, count):
    return np.random.default_rng(zlib.crc32(name.encode()) + 1).integers(
        0, case["config"]["vocab_size"], count).astype(np.int32)


def goldens(out):
    report = {}
    for name, case in GOLDEN_CASES.items():
        folder, tokens = out / name, tokens_of(name, case, 8)
        want = exact_logits(case, make(name, case, folder), tokens)
        write_safetensors(folder / "golden.safetensors", {"tokens": tokens, "logits": want})
        worst, rms = errors(mlx_logits(folder, tokens), want)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{name:28} {size // 1024:4} KiB  mlx-lm f32: max {worst:.1e} rms {rms:.1e}")
        if worst > 2e-5:
            raise SystemExit(f"{name}: mlx-lm does not agree with the float64 pass")
        report[name] = {"mlx_max": float(f"{worst:.1e}"), "mlx_rms": float(f"{rms:.1e}")}
    write_json(out / "mlx.json", report)
    return 0


def compare(out, devices, binary):
    print(f"{'case':32} {'mlx-lm as loaded':>18} {'mlx-lm in f32':>18}" +
          "".join(f"{'ours ' + device:>18}" for device in devices) + "   (max / rms against float64)")
    worse, report = [], {}
    for name, case in grid().items():
        folder, tokens = out / name, tokens_of(name, case, 24)
        want = exact_logits(case, make(name, case, folder), tokens)
        row = {"mlx": errors(mlx_logits(folder, tokens, widened=False), want),
               "mlx_f32": errors(mlx_logits(folder, tokens), want)}
        for device in devices:
            row[device] = errors(program.logits(binary, folder, tokens, device), want)
            if not row[device][1] <= row["mlx"][1]:
                worse.append(f"{name} on {device}")
        print(f"{name:32} " + " ".join(f"{worst:8.1e} {rms:8.1e}" for worst, rms in row.values()), flush=True)
        report[name] = {key: {"max": value[0], "rms": value[1]} for key, value in row.items()}
    write_json(out / "widths.json", report)
    for name in worse:
        print(f"further from float64 than mlx-lm: {name}")
    return 1 if worse else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where the checkpoints go")
    parser.add_argument("--goldens", action="store_true", help="write the committed subset")
    parser.add_argument("--devices", default="cpu,ref", help="comma-separated; empty: mlx-lm only")
    parser.add_argument("--binary", type=Path, default=program.BINARY)
    arguments = parser.parse_args()
    if arguments.goldens:
        return goldens(arguments.out or GOLDENS / "widths")
    if arguments.out is None:
        parser.error("--out is needed: the grid takes about 40 MB")
    return compare(arguments.out, [d for d in arguments.devices.split(",") if d], arguments.binary)


if __name__ == "__main__":
    sys.exit(main())
