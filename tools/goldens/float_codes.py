"""Makes the goldens of codes that are small floats: MLX's CPU results bit for bit, and tiny checkpoints that hold them.

Writes float_codes.safetensors (what MLX makes of rows that are odd in every way, and how it decodes them) and
floats/<case>/: checkpoints as mlx-lm writes and reads them, and as ModelOpt, compressed-tensors and fp8 with blocks of
powers of two have them, with float64 logits over the decoded weights. Ends with an error when MLX differs from the
numpy description of its rules, or mlx-lm's logits from those.
"""
import argparse
import sys
import tempfile
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model, quantize_model

import float64
from common import GOLDENS, dequantize64, errors, pack, store, unpack, widen, write_json, write_safetensors
from experts import QWEN3_MOE
from experts import make_weights as make_expert_weights
from mlx_logits import mlx_logits
from models import LLAMA, TORCH, make_weights
from quant import DTYPES, edge_rows, from_mx, to_mx

MODES = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}  # bits, group
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
E4M3 = np.array([m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7) for e in range(16) for m in range(8)])
GLOBAL_UNIT = 448 * 6
SMALL = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 64, "head_dim": 16, "num_hidden_layers": 1,
         "tie_word_embeddings": False}


class Bytes8:
    """Bytes that a safetensors file calls F8_E4M3 or F8_E8M0."""

    def __init__(self, values, label):
        self.values, self.label = np.ascontiguousarray(values, np.uint8), label


def encode_e4m3(values):
    """Nearest, ties to even, at most 448."""
    magnitude = np.minimum(np.abs(values.astype(np.float64)), 448)
    above = np.clip(np.searchsorted(E4M3[:127], magnitude), 1, 126)
    low, high = E4M3[above - 1], E4M3[above]
    up = (magnitude - low > high - magnitude) | ((magnitude - low == high - magnitude) & (above % 2 == 0))
    return (np.where(up, above, above - 1) | (np.signbit(values) << 7)).astype(np.uint8)


def quantize(values, mode, dtype):
    """MLX's rules on the CPU: arithmetic in the weight's own type. -> codes [rows, width], scales [rows, groups]."""
    bits, group = MODES[mode]
    own = (lambda v: v) if dtype == "f32" else (lambda v: widen(store(v, dtype), np.float32))
    w = values.astype(np.float32).reshape(values.shape[0], -1, group)
    largest = own(np.abs(w).max(-1) / np.float32(448 if bits == 8 else 6))
    with np.errstate(all="ignore"):
        if mode == "nvfp4":
            scales = encode_e4m3(largest)
            scale = E4M3[scales & 127].astype(np.float32)
        else:  # the first power of two that leaves no code beyond the largest; 1 where all are zero
            exponent = np.where(largest == 0, 0, np.ceil(np.log2(largest)))
            scales = (np.clip(exponent, -127, 127) + 127).astype(np.uint8)
            scale = np.exp2(scales.astype(np.float64) - 127).astype(np.float32)
        ratio = own(w / scale[..., None])
        if bits == 8:
            return encode_e4m3(ratio).reshape(values.shape), scales
        distance = np.abs(ratio[..., None] - E2M1)  # the first of the nearest
        return np.argmin(np.where(np.isnan(distance), np.inf, distance), -1).reshape(values.shape), scales


def decode(codes, scales, mode, factor=1.0):
    """Without any rounding below float64. `codes` [..., width], `factor` per leading axis or one."""
    group = MODES[mode][1]
    value = E2M1[codes].astype(np.float64) if MODES[mode][0] == 4 else np.where(
        codes & 128, -E4M3[codes & 127], E4M3[codes & 127])
    scale = E4M3[scales & 127] if mode == "nvfp4" else np.exp2(scales.astype(np.float64) - 127)
    scale = scale * np.reshape(factor, np.shape(factor) + (1,) * (scale.ndim - np.ndim(factor)))
    return (value.reshape(*scale.shape, group) * scale[..., None]).reshape(codes.shape)


def bits_of_mlx():
    tensors, wrong = {}, 0
    for dtype in DTYPES:
        names, rows = edge_rows(dtype)
        tensors[f"{dtype}.input"] = rows
        for mode, (bits, _) in MODES.items():
            words, scales = (np.array(v) for v in mx.quantize(to_mx(rows), mode=mode, stream=mx.cpu))
            decoded = np.array(mx.dequantize(mx.array(words), mx.array(scales), mode=mode, dtype=mx.float32,
                                             stream=mx.cpu))
            codes, described = quantize(widen(rows, np.float32), mode, dtype)
            for r, name in enumerate(names):
                # Where the largest magnitude is below 2^-119, MLX's scale of mxfp8 wraps; ours is the smallest.
                if name == "subnormal" and mode == "mxfp8" and dtype != "f16":
                    words[r], scales[r] = pack(codes[r:r + 1].astype(np.uint32), bits)[0], described[r]
                    decoded[r] = decode(codes[r:r + 1], described[r:r + 1], mode)[0]
                    continue
                if not (np.array_equal(unpack(words, bits)[r], codes[r]) and np.array_equal(scales[r], described[r])):
                    wrong += 1
                    print(f"{dtype} {mode} {name}: MLX differs from the description")
            if not np.array_equal(decoded, decode(unpack(words, bits), scales, mode).astype(np.float32)):
                wrong += 1
                print(f"{dtype} {mode}: MLX decodes otherwise")
            tensors |= {f"{dtype}.{mode}.weight": words, f"{dtype}.{mode}.scales": scales,
                        f"{dtype}.{mode}.decoded": decoded}
    random = np.random.default_rng(11)
    values = random.normal(0, 0.05, (8, 128)).astype(np.float32)
    largest = mx.array(np.abs(values).max())
    words, scales = mx.quantize(mx.array(values), mode="nvfp4", global_scale=largest, stream=mx.cpu)
    tensors |= {"global.weight": np.array(words), "global.scales": np.array(scales),
                "global.global_scale": np.array(largest).reshape(1),
                "global.decoded": np.array(mx.dequantize(words, scales, mode="nvfp4", global_scale=largest,
                                                         dtype=mx.float32, stream=mx.cpu))}
    return tensors, names, wrong


# name -> the mode of the top level; how names lie; entries by a part of the path
CASES = {
    "mxfp4": ("mxfp4", "mlx", {}),
    "mxfp8": ("mxfp8", "mlx", {}),
    "nvfp4": ("nvfp4", "mlx", {}),
    # As gpt-oss: the top level says mxfp4, and other modules have entries, some without a mode.
    "mxfp4_mixed": ("mxfp4", "mlx", {"lm_head": ("affine", 8, 32), "q_proj": ("mxfp8", 8, 32),
                                      "o_proj": ("nvfp4", 4, 16), "embed": ("affine", 4, 64)}),
    "not_named": ("mxfp4", "lying", {"down_proj": ("nvfp4", 4, 16), "v_proj": ("mxfp8", 8, 32)}),
    "method_mxfp4": ("mxfp4", "method", {}),
    "modelopt": ("nvfp4", "modelopt", {}),
    "modelopt_packaged": ("nvfp4", "modelopt_packaged", {}),
    "compressed_mxfp4": ("mxfp4", "compressed", {}),
    "compressed_nvfp4": ("nvfp4", "compressed", {}),
    "fp8_blocks": ("mxfp8", "blocks", {}),
}


def foreign(path, values, mode, names):
    """One module as another tool writes it: its tensors and exact weights."""
    rows, width = values.shape
    if names == "blocks":
        largest = np.abs(values).reshape(rows // 32, 32, width // 32, 32).max((1, 3))
        scales = (np.ceil(np.log2(largest / 448)) + 127).astype(np.uint8)
        each = np.repeat(scales, 32, 0)
        codes = encode_e4m3(values / np.repeat(np.exp2(each.astype(np.float64) - 127), 32, 1))
        return ({path + ".weight": Bytes8(codes, "F8_E4M3"), path + ".weight_scale_inv": Bytes8(scales, "F8_E8M0")},
                decode(codes, each, mode))
    factor = np.float32(np.abs(values).max() / GLOBAL_UNIT) if mode == "nvfp4" else np.float32(1)
    codes, scales = quantize(values / factor, mode, "f32")
    packed = pack(codes.astype(np.uint32), 4).view(np.uint8)
    if names == "compressed":
        tensors = {path + ".weight_packed": packed, path + ".weight_scale":
                   scales if mode == "mxfp4" else Bytes8(scales, "F8_E4M3")}
        if mode == "nvfp4":
            stored = np.float32(1) / factor
            factor = np.float32(1) / stored
            tensors |= {path + ".weight_global_scale": stored.reshape(1),
                        path + ".input_global_scale": np.ones(1, np.float32)}
        return tensors, decode(codes, scales, mode, np.float64(factor))
    return ({path + ".weight": packed, path + ".weight_scale": Bytes8(scales, "F8_E4M3"),
             path + ".weight_scale_2": factor.reshape(()), path + ".input_scale": np.ones((), np.float32)},
            decode(codes, scales, mode, np.float64(factor)))


def make(name, folder):
    mode, names, entries = CASES[name]
    config = LLAMA | SMALL | {"torch_dtype": TORCH["bf16"]}
    if names == "blocks":
        config |= {"intermediate_size": 128}
    seed = zlib.crc32(name.encode())
    tensors, exact, named = {}, {}, {}
    for key, value in make_weights(config, seed).items():
        stored, path = store(value, "bf16"), key.removesuffix(".weight")
        own = names in ("modelopt", "modelopt_packaged", "compressed", "blocks")
        if value.ndim < 2 or (own and ("embed" in path or "lm_head" in path)):  # which those tools leave alone
            tensors[key], exact[key] = stored, widen(stored)
            continue
        if own:
            mine, exact[key] = foreign(path, widen(stored), mode, names.removesuffix("_packaged"))
            tensors |= mine
            continue
        how, bits, group = next((e for part, e in entries.items() if part in path), (mode, *MODES[mode]))
        words, scales, *biases = [from_mx(v) for v in mx.quantize(to_mx(stored), group_size=group, bits=bits, mode=how,
                                                                  stream=mx.cpu)]
        tensors |= {key: words, path + ".scales": scales} | ({path + ".biases": biases[0]} if biases else {})
        exact[key] = dequantize64(words, scales, biases[0], bits, group) if biases else decode(
            unpack(words, bits), scales, how)
        if how != mode:
            named[path] = {"group_size": group, "bits": bits} | ({"mode": how} if how != "affine" else {})
    bits, group = MODES[mode]
    method = {
        "mlx": {"quantization": {"group_size": group, "bits": bits, "mode": mode} | named},
        "lying": {"quantization": {"group_size": 64, "bits": 4}},
        "method": {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}},
        "compressed": {"quantization_config": {"quant_method": "compressed-tensors",
                                               "format": f"{mode}-pack-quantized", "ignore": ["lm_head"]}},
        "blocks": {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0",
                                           "weight_block_size": [32, 32]}},
        "modelopt": {},
        "modelopt_packaged": {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4",
                                                      "exclude_modules": ["lm_head"]}},
    }[names]
    text = config
    config = config | method
    folder.mkdir(parents=True, exist_ok=True)
    if names == "modelopt":
        write_json(folder / "hf_quant_config.json", {"producer": {"name": "modelopt", "version": "0.40"}, "quantization": {
            "quant_algo": "NVFP4", "kv_cache_quant_algo": None, "group_size": 16, "exclude_modules": ["lm_head"]}})
    if names == "modelopt_packaged":
        tensors = {"language_model." + key: value for key, value in tensors.items()}
        config = {"model_type": "a_model_with_vision", "text_config": config, "vision_config": {"hidden_size": 8}}
    write_json(folder / "config.json", dict(sorted(config.items())))
    write_mixed(folder / "model.safetensors", tensors)
    tokens = np.random.default_rng(seed + 1).integers(0, text["vocab_size"], 8).astype(np.int32)
    with tempfile.TemporaryDirectory() as scratch:  # transformers must not see the quantization
        write_json(Path(scratch) / "config.json", text)
        want = float64.logits(float64.build(scratch, exact), tokens)
    write_safetensors(folder / "golden.safetensors", {"tokens": tokens, "logits": want})
    if names not in ("mlx", "lying", "method"):
        print(f"{name:20} mlx-lm not asked: it has no names for it in this family")
        return None
    worst = errors(mlx_logits(folder, tokens), want)[0]
    print(f"{name:20} mlx-lm f32: max {worst:.1e}")
    if worst > 2e-5:
        raise SystemExit(f"{name}: mlx-lm does not agree with the float64 pass")
    return float(f"{worst:.1e}")


def write_mixed(path, tensors):
    """As write_safetensors, with Bytes8 under its own type."""
    write_safetensors(path, {k: v.values if isinstance(v, Bytes8) else v for k, v in tensors.items()})
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8:8 + length].decode()
    for name, value in tensors.items():
        if isinstance(value, Bytes8):
            header = header.replace(f'"{name}":{{"dtype":"U8"', f'"{name}":{{"dtype":"{value.label}"')
    header = header.rstrip().encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length:])


def make_experts(folder):
    """nvfp4 with a scale for each expert, as mlx-lm quantizes stacks of them."""
    config = QWEN3_MOE | {"num_hidden_layers": 1, "torch_dtype": TORCH["bf16"]}
    seed = zlib.crc32(b"nvfp4_experts")
    tokens = np.random.default_rng(seed + 1).integers(0, config["vocab_size"], 8).astype(np.int32)
    with tempfile.TemporaryDirectory() as scratch:
        dense = Path(scratch)
        write_json(dense / "config.json", config)
        write_safetensors(dense / "model.safetensors",
                          {k: store(v, "bf16") for k, v in make_expert_weights(config, seed).items()})
        model, _ = load_model(dense)
        model, new_config = quantize_model(model, dict(config), None, None, mode="nvfp4", global_scale=True)
        tensors = {name: from_mx(value) for name, value in tree_flatten(model.parameters())}
        exact = {}
        for name, value in tensors.items():
            path = name.removesuffix(".weight")
            if not name.endswith((".scales", ".biases", ".global_scale")):
                exact[name] = widen(value)
            if path + ".biases" in tensors:
                entry = new_config["quantization"][path]
                exact[name] = dequantize64(value, tensors[path + ".scales"], tensors[path + ".biases"], entry["bits"],
                                           entry["group_size"])
            elif path + ".scales" in tensors:
                factor = tensors.get(path + ".global_scale", np.float32(GLOBAL_UNIT)) / np.float32(GLOBAL_UNIT)
                exact[name] = decode(unpack(value, 4), tensors[path + ".scales"], "nvfp4", factor.astype(np.float64))
        want = float64.logits(float64.build(dense, exact), tokens)
    write_json(folder / "config.json", dict(sorted(new_config.items())))
    write_safetensors(folder / "model.safetensors", tensors, {"format": "mlx"})
    write_safetensors(folder / "golden.safetensors", {"tokens": tokens, "logits": want})
    print("nvfp4_experts        mlx-lm not asked: it multiplies by global scales on GPUs only")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=GOLDENS)
    arguments = parser.parse_args()
    tensors, rows, wrong = bits_of_mlx()
    write_safetensors(arguments.out / "float_codes.safetensors", tensors, {"rows": " ".join(rows)})
    report = {name: {"mlx_max": make(name, arguments.out / "floats" / name)} for name in CASES}
    make_experts(arguments.out / "floats" / "nvfp4_experts")
    report["nvfp4_experts"] = {"mlx_max": None}
    write_json(arguments.out / "floats" / "mlx.json", report)
    return 1 if wrong else 0


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    sys.exit(main())
