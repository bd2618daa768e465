"""Makes the goldens of affine quantization: MLX's CPU results, bit for bit, and the GPU kernels' rules in numpy.

Writes quant.safetensors (codes, scales, biases, decoded rows for every width, group and dtype) and
quant_matmul.safetensors (products in both orientations against float64). Both are deterministic.
Ends with an error when MLX differs from the numpy description of its CPU rules, so that the description stays true.
"""
import argparse
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

from common import BF16, GOLDENS, dequantize64, errors, pack, store, unpack, widen, write_safetensors

BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)
DTYPES = ("f32", "f16", "bf16")
MX = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}
WIDTH = 128


def to_mx(value):
    return mx.array(value.bits).view(mx.bfloat16) if isinstance(value, BF16) else mx.array(value)


def from_mx(value):
    return BF16(np.array(value.view(mx.uint16))) if value.dtype == mx.bfloat16 else np.array(value)


def half_away(values):
    """C's round(): numpy only has ties to even. Exact: the sum x + 0.5 is never formed."""
    whole = np.trunc(values)
    return whole + np.copysign((np.abs(values - whole) >= 0.5).astype(values.dtype), values)


def quantize(values, bits, group, variant):
    """Affine quantization in f32 arithmetic. [rows, width] -> codes, and scales and biases before they are stored."""
    w = values.astype(np.float32).reshape(values.shape[0], -1, group)
    top = np.float32(2**bits - 1)
    lowest, highest = w.min(-1), w.max(-1)
    round_ = np.rint if variant == "cpu" else half_away
    if variant == "gpu":
        highest = np.maximum(highest, np.float32(0))  # those kernels start their maximum at zero
    scale = np.maximum((highest - lowest) / top, np.float32(1e-7))
    low_side = np.abs(lowest) > np.abs(highest)
    scale = np.where(low_side, scale, -scale)
    edge = np.where(low_side, lowest, highest)
    steps = round_(edge / scale)
    some = steps != 0
    scale = np.where(some, edge / np.where(some, steps, np.float32(1)), scale)
    bias = np.where(some, edge, np.float32(0))
    codes = np.clip(round_((w - bias[..., None]) / scale[..., None]), np.float32(0), top)
    return codes.astype(np.uint32).reshape(values.shape), scale, bias


def edge_rows(dtype):
    """One row per way that a group can be odd; every value is then rounded to dtype."""
    random = np.random.default_rng(20260101)
    i = np.arange(WIDTH, dtype=np.float64)
    decades = (-7, 4) if dtype == "f16" else (-30, 30)
    tiny = 2.0**-24 if dtype == "f16" else 2.0**-133  # the smallest subnormal of f16 and of bf16
    big = 6e4 if dtype == "f16" else 1e38
    outlier = random.normal(0, 0.02, WIDTH)
    outlier[77] = 100
    signs = random.choice([-1.0, 1.0], WIDTH)
    rows = {
        "zeros": np.zeros(WIDTH),
        "constant_positive": np.full(WIDTH, 0.5),
        "constant_negative": np.full(WIDTH, -0.5),
        "negative_zeros": np.full(WIDTH, -0.0),
        "ramp_a": (i % 32 - 13) / 16,
        "all_negative_ramp": -(i % 32 + 33) / 32,
        "all_positive_ramp": (i % 32 + 33) / 32,
        "ties": (i % 31 - 15) / 2,
        "symmetric": np.where(i % 2 == 0, 1.0, -1.0) * ((i % 16) + 1) / 16,
        "huge_range": signs * 10.0 ** random.uniform(*decades, WIDTH),
        "big": signs * big * random.uniform(0.5, 1, WIDTH),
        "subnormal": np.round(random.uniform(-500, 500, WIDTH)) * tiny,
        "near_epsilon": random.uniform(-2e-7, 2e-7, WIDTH),
        "below_epsilon": random.uniform(-4e-8, 4e-8, WIDTH),
        "one_outlier": outlier,
        "all_negative": -np.abs(random.normal(0, 0.05, WIDTH)) - 0.01,
        "normal_0": random.normal(0, 0.02, WIDTH),
        "normal_1": random.normal(0, 0.02, WIDTH),
        "normal_2": random.normal(0.01, 1, WIDTH),
        "uniform": random.uniform(-0.1, 0.1, WIDTH),
    }
    return list(rows), store(np.stack(list(rows.values())), dtype)


def check_published_vectors():
    """The vectors of the format description, which were derived by hand and not by this script."""
    a = (np.arange(32) - 13)[None] / 16
    b2 = -(np.arange(32) + 33)[None] / 32
    want = [
        (a, 2, "gpu", "aaabffff 0015555a"), (a, 2, "cpu", "aaabffff 0015555a"),
        (a, 3, "gpu", "6dbb6dbf 26db9249 00124a49"), (a, 3, "cpu", "6dbb6dbf 26db9249 00124a49"),
        (a, 4, "gpu", "cddeefff 899aabbc 45566778 01122334"), (a, 4, "cpu", "ccdeeeff 889aaabc 44566678 00122234"),
        (a, 5, "gpu", "75be77df 3a56d7c6 35cf8465 c74254b6 00443214"),
        (a, 6, "gpu", "78ebcfbf bb6fc73d 863967a6 5765b75f a30e4135 00210620"),
        (a, 6, "cpu", "78ebcfbf bb6fc73d 863967a6 5765b75f a30e4125 00210620"),
        (a, 8, "gpu", "e6eef7ff c5ced6de a4adb5bd 848c949c 636b737b 424a525a 2129313a 00081019"),
        (b2, 4, "gpu", "66667777 44445555 22233334 00011112"), (b2, 4, "cpu", "ccddeeff 8899aabb 44556677 00112233"),
    ]
    wrong = 0
    for values, bits, variant, words in want:
        codes, _, _ = quantize(values, bits, 32, variant)
        got = " ".join(f"{word:08x}" for word in pack(codes, bits)[0])
        if got != words:
            wrong += 1
            print(f"published vector {variant} {bits} bit: expected {words}, got {got}")
    return wrong


def case(tensors, dtype, bits, group, names, rows):
    """Adds one width, group and dtype; returns how many rows of MLX differ from the numpy description."""
    key = f"{dtype}.b{bits}.g{group}"
    words, scales, biases = mx.quantize(to_mx(rows), group_size=group, bits=bits, stream=mx.cpu)
    decoded = from_mx(mx.dequantize(words, scales, biases, group_size=group, bits=bits, stream=mx.cpu))
    words, scales, biases = from_mx(words), from_mx(scales), from_mx(biases)
    tensors |= {f"{key}.cpu.weight": words, f"{key}.cpu.scales": scales, f"{key}.cpu.biases": biases,
                f"{key}.cpu.decoded": decoded}
    codes, scale, bias = quantize(widen(rows, np.float32), bits, group, "gpu")
    tensors |= {f"{key}.gpu.weight": pack(codes, bits), f"{key}.gpu.scales": store(scale, dtype),
                f"{key}.gpu.biases": store(bias, dtype)}
    codes, scale, bias = quantize(widen(rows, np.float32), bits, group, "cpu")
    scale, bias = store(scale, dtype), store(bias, dtype)
    described = widen(scale, np.float32)[..., None] * codes.reshape(*scale.shape, group).astype(np.float32)
    described = widen(store(described, dtype), np.float32) + widen(bias, np.float32)[..., None]
    described = store(described.reshape(rows.shape), dtype)
    wrong = 0
    for row, name in enumerate(names):
        same = {"codes": np.array_equal(unpack(words, bits)[row], codes[row]),
                "scales": equal_bits(scales[row], scale[row]), "biases": equal_bits(biases[row], bias[row]),
                "decoded": equal_bits(decoded[row], described[row])}
        if not all(same.values()):
            wrong += 1
            print(f"{key} row {name}: MLX differs from the description in {[k for k, v in same.items() if not v]}")
    return wrong


def equal_bits(a, b):
    raw = [np.ascontiguousarray(v.bits if isinstance(v, BF16) else v).tobytes() for v in (a, b)]
    return raw[0] == raw[1]


def matmuls():
    """Well-behaved weights, so that a product is a statement about the kernel and not about cancellation."""
    random = np.random.default_rng(7)
    rows = 24
    tensors = {"x": random.normal(size=(3, WIDTH)).astype(np.float32),
               "x_flipped": random.normal(size=(3, rows)).astype(np.float32)}
    for bits in BITS:
        for group in GROUPS:
            dtype = DTYPES[GROUPS.index(group)]
            key = f"b{bits}.g{group}"
            weight = store(random.normal(0, 0.05, (rows, WIDTH)), dtype)
            words, scales, biases = mx.quantize(to_mx(weight), group_size=group, bits=bits, stream=mx.cpu)
            product = {}
            for name, x, transpose in (("y", "x", True), ("y_flipped", "x_flipped", False)):
                product[name] = np.array(mx.quantized_matmul(
                    mx.array(tensors[x]), words, scales.astype(mx.float32), biases.astype(mx.float32),
                    transpose=transpose, group_size=group, bits=bits, stream=mx.cpu))
            words, scales, biases = from_mx(words), from_mx(scales), from_mx(biases)
            exact = dequantize64(words, scales, biases, bits, group)
            tensors |= {f"{key}.weight": words, f"{key}.scales": scales, f"{key}.biases": biases,
                        f"{key}.y": tensors["x"].astype(np.float64) @ exact.T,
                        f"{key}.y_flipped": tensors["x_flipped"].astype(np.float64) @ exact}
            for name, value in product.items():
                worst, rms = errors(value, tensors[f"{key}.{name}"])
                print(f"matmul {key} {dtype:4} {name:9} MLX against float64: max {worst:.2e} rms {rms:.2e}")
                if worst > 1e-5:
                    raise SystemExit("MLX's product is not the product of the decoded weights")
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=GOLDENS)
    arguments = parser.parse_args()
    wrong = check_published_vectors()
    tensors = {}
    for dtype in DTYPES:
        names, rows = edge_rows(dtype)
        tensors[f"{dtype}.input"] = rows
        for bits in BITS:
            for group in GROUPS:
                wrong += case(tensors, dtype, bits, group, names, rows)
    write_safetensors(arguments.out / "quant.safetensors", tensors, {"rows": " ".join(names)})
    write_safetensors(arguments.out / "quant_matmul.safetensors", matmuls())
    print(f"{len(tensors)} tensors, {wrong} differences between MLX {mx.__version__} and the description")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
