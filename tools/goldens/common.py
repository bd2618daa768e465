"""What the oracle scripts share: a deterministic safetensors writer and reader, dtype rounding, paths, error figures.

The writer packs tensors without holes in the order of their names, so the same tensors always give the same bytes.
"""
import argparse
import json
import os
import struct
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDENS = REPOSITORY / "tests" / "data" / "goldens"
NUMPY_TO_NAME = {"float64": "F64", "float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64", "uint32": "U32",
                 "uint8": "U8", "uint16": "U16"}
NAME_TO_NUMPY = {name: np.dtype(dtype) for dtype, name in NUMPY_TO_NAME.items()}


class BF16:
    """bfloat16 bits in a uint16 array: numpy has no such dtype."""

    def __init__(self, bits):
        self.bits = np.ascontiguousarray(bits, dtype=np.uint16)

    @property
    def shape(self):
        return self.bits.shape

    @property
    def nbytes(self):
        return self.bits.nbytes

    def __getitem__(self, index):
        return BF16(self.bits[index])

    def f32(self):
        return (self.bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(values):
    """Round to nearest even; the oracles never store NaN in bf16."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return BF16(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))


def store(values, dtype):
    """Rounds float values to "f32", "f16" or "bf16"."""
    values = np.asarray(values)
    if dtype == "bf16":
        return to_bf16(values)
    with np.errstate(over="ignore"):
        return values.astype({"f32": np.float32, "f16": np.float16, "f64": np.float64}[dtype])


def widen(values, dtype=np.float64):
    return (values.f32() if isinstance(values, BF16) else np.asarray(values)).astype(dtype)


def write_safetensors(path, tensors, metadata=None, pad=True):
    """`tensors`: name -> numpy array or BF16. Written to a temporary name first, so a reader never sees half a file."""
    header, offset, blobs = {}, 0, []
    if metadata:
        header["__metadata__"] = metadata
    for name in sorted(tensors):
        value = tensors[name]
        if isinstance(value, BF16):
            label, blob = "BF16", value.bits.tobytes()
        else:
            value = np.ascontiguousarray(value)
            label, blob = NUMPY_TO_NAME[value.dtype.name], value.tobytes()
        header[name] = {"dtype": label, "shape": list(value.shape), "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    if pad:
        text += b" " * (-len(text) % 8)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    scratch.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    os.replace(scratch, path)


def read_safetensors(path):
    data = Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    tensors, end = {}, 0
    for name, entry in sorted(((n, e) for n, e in header.items() if n != "__metadata__"),
                              key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        if begin != end:
            raise ValueError(f"{path}: {name} starts at {begin}, the tensor before it ends at {end}")
        end = stop
        bf16 = entry["dtype"] == "BF16"
        dtype = np.dtype(np.uint16) if bf16 else NAME_TO_NUMPY[entry["dtype"]]
        value = np.frombuffer(data[8 + length + begin:8 + length + stop], dtype=dtype).reshape(entry["shape"])
        tensors[name] = BF16(value) if bf16 else value
    if 8 + length + end != len(data):
        raise ValueError(f"{path}: {len(data) - 8 - length - end} bytes after the last tensor")
    return tensors


def write_json(path, value):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def unpack(words, bits):
    """U32 rows [rows, words] -> codes [rows, words·32/bits]: every row is one little-endian bit stream."""
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")
    stream = stream.reshape(*words.shape[:-1], -1, bits).astype(np.uint32)
    return (stream << np.arange(bits, dtype=np.uint32)).sum(-1, dtype=np.uint32)


def pack(codes, bits):
    """The inverse of unpack."""
    stream = ((codes[..., None] >> np.arange(bits, dtype=codes.dtype)) & 1).astype(np.uint8)
    stream = stream.reshape(*codes.shape[:-1], -1)
    return np.packbits(stream, axis=-1, bitorder="little").view(np.uint32)


def dequantize64(words, scales, biases, bits, group):
    """scale·code + bias without any rounding below float64."""
    codes = unpack(words, bits).astype(np.float64).reshape(*scales.shape, group)
    values = codes * widen(scales)[..., None] + widen(biases)[..., None]
    return values.reshape(*words.shape[:-1], -1)


def errors(got, want):
    """Largest and root-mean-square error relative to the root mean square of the reference."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    size = np.sqrt(np.mean(want * want))
    gap = got - want
    return float(np.abs(gap).max() / size), float(np.sqrt(np.mean(gap * gap)) / size)


def store_case(folder, config, tensors, taps, tokens, form="mlx"):
    """A case's checkpoint and its golden: logits in float64, other intermediates in float32."""
    write_json(folder / "config.json", dict(sorted(config.items())))
    write_safetensors(folder / "model.safetensors", tensors, {"format": form})
    golden = {key: value if key == "logits" else value.astype(np.float32) for key, value in taps.items()}
    write_safetensors(folder / "golden.safetensors", golden | {"tokens": tokens})


def agreement(name, folder, logits, torch32, mlx, limit):
    """How far the logits of transformers in float32 and of mlx-lm (None: not asked) are away, printed and as mlx.json has it."""
    torch_max = errors(torch32, logits)[0]
    mlx_max = None if mlx is None else errors(mlx, logits)[0]
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name:26} {size // 1024:4} KiB  mlx-lm f32: {'not asked' if mlx_max is None else f'max {mlx_max:.1e}':12} "
          f"transformers f32: max {torch_max:.1e}")
    if max(mlx_max or 0.0, torch_max) > limit:
        raise SystemExit(f"{name}: the two implementations do not agree")
    return {"mlx_max": None if mlx_max is None else float(f"{mlx_max:.1e}"), "transformers_f32_max": float(f"{torch_max:.1e}")}


def make_all(description, folder, cases, make):
    """The command line of a script that makes `cases`: each into a folder of its own, and what MLX gave into mlx.json."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=GOLDENS / folder)
    out = parser.parse_args().out
    write_json(out / "mlx.json", {name: make(name, out / name) for name in cases})
