#!/usr/bin/env python3
"""Writes a random GGUF file with the true shape of a published Qwen3 model: the same matrices as
tools/make_random_checkpoint.py writes for MLX, at 4.5 bits per weight, so that peers that read GGUF do the same work.

Usage: write_gguf.py SHAPE TYPE FILE [--layers N]; runs in an environment that has the `gguf` package. SHAPE is a name of
make_random_checkpoint.py; TYPE is Q4_0, IQ4_NL or Q4_K, for all matrices including the embedding and the head (published
files often keep more bits there; an MLX checkpoint does not), but for the routers of experts, which are f32 as published
files have them. Their scores are random, and differ from token to token and from layer to layer.
"""
import argparse
import math
import os
import sys
import zlib
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from make_random_checkpoint import EXPERTS, SHAPES, TEMPLATE, VOCAB as VOCABULARIES, vocabulary  # noqa: E402

VOCAB = VOCABULARIES["qwen3"]

# Weights per block, then the fields of a block: count and how to fill them. Scales make weights of about +-0.03 around zero,
# so that no sum overflows on its way through the layers: infinities would be measured instead of numbers.
BLOCKS_AT_ONCE = 1 << 16


def half(values):
    return np.asarray(values, dtype="<f2").view(np.uint8).reshape(-1, 2)


def q4_0(rng, count):
    """32 weights: f16 scale, 16 bytes of codes; weight = scale * (code - 8)."""
    return [half(rng.uniform(0.002, 0.006, count)), rng.integers(0, 256, (count, 16), dtype=np.uint8)]


def iq4_nl(rng, count):
    """32 weights: f16 scale, 16 bytes of codes; weight = scale * table[code], the table within -127 and 113."""
    return [half(rng.uniform(0.0002, 0.0005, count)), rng.integers(0, 256, (count, 16), dtype=np.uint8)]


def q4_k(rng, count):
    """256 weights: f16 scale and minimum, 12 bytes of 6-bit scales and minima of 8 groups, 128 bytes of codes;
    weight = scale * s * code - minimum * m, centred by a minimum of 7.5 scales."""
    scale = rng.uniform(0.00008, 0.0002, count)
    return [half(scale), half(7.5 * scale), rng.integers(0, 256, (count, 140), dtype=np.uint8)]


ROUTER = "ffn_gate_inp.weight"
TYPES = {"Q4_0": (32, q4_0), "IQ4_NL": (32, iq4_nl), "Q4_K": (256, q4_k)}


class Blocks:
    """Random blocks of one type, made once and repeated from another place for each matrix: neither speed nor memory depends
    on the values, but which experts are chosen does, and alike layers would choose alike."""

    def __init__(self, kind):
        self.weights, make = TYPES[kind]
        self.block = np.concatenate(make(np.random.default_rng(1), BLOCKS_AT_ONCE), axis=1)
        self.bytes = self.block.shape[1]

    def size(self, rows, columns):
        if columns % self.weights != 0:
            raise SystemExit(f"[write_gguf] a row of weights: expected a multiple of {self.weights}, got {columns}")
        return rows * (columns // self.weights) * self.bytes

    def matrix(self, name, rows, columns):
        start = zlib.crc32(name.encode()) % BLOCKS_AT_ONCE
        return np.resize(np.roll(self.block, -start, axis=0).reshape(-1), self.size(rows, columns)).reshape(rows, -1)


def tensors(shape, moe):
    """(name, [experts, out, in], [out, in] or [size]), in the order of GGUF's own converters; `moe` as in EXPERTS or None."""
    layers, hidden, heads, kv_heads, dim, inner, tied = shape
    yield "token_embd.weight", (VOCAB, hidden)
    for i in range(layers):
        at = f"blk.{i}."
        yield at + "attn_norm.weight", (hidden,)
        yield at + "attn_q.weight", (heads * dim, hidden)
        yield at + "attn_k.weight", (kv_heads * dim, hidden)
        yield at + "attn_v.weight", (kv_heads * dim, hidden)
        yield at + "attn_output.weight", (hidden, heads * dim)
        yield at + "attn_q_norm.weight", (dim,)
        yield at + "attn_k_norm.weight", (dim,)
        yield at + "ffn_norm.weight", (hidden,)
        if moe:
            experts, _, width = moe
            yield at + ROUTER, (experts, hidden)
            yield at + "ffn_gate_exps.weight", (experts, width, hidden)
            yield at + "ffn_up_exps.weight", (experts, width, hidden)
            yield at + "ffn_down_exps.weight", (experts, hidden, width)
            continue
        yield at + "ffn_gate.weight", (inner, hidden)
        yield at + "ffn_up.weight", (inner, hidden)
        yield at + "ffn_down.weight", (hidden, inner)
    yield "output_norm.weight", (hidden,)
    if not tied:
        yield "output.weight", (VOCAB, hidden)


def metadata(writer, shape, moe, name, kind):
    layers, hidden, heads, kv_heads, dim, inner, _ = shape
    writer.add_name(f"{name} random {kind}")
    writer.add_block_count(layers)
    writer.add_context_length(40960)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(dim)
    writer.add_value_length(dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1000000.0)
    if moe:
        writer.add_expert_count(moe[0])
        writer.add_expert_used_count(moe[1])
        writer.add_expert_feed_forward_length(moe[2])
    writer.add_quantization_version(2)
    writer.add_file_type({"Q4_0": 2, "IQ4_NL": 25, "Q4_K": 14}[kind])
    tokens, merges = vocabulary(VOCAB)
    # All but the last two are plain: a server must have a text to send for whatever a random model says.
    types = [TokenType.NORMAL] * (VOCAB - 2) + [TokenType.CONTROL] * 2
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(VOCAB - 2)
    writer.add_eos_token_id(VOCAB - 1)
    writer.add_pad_token_id(VOCAB - 2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def is_plain(tensor, dims):
    return len(dims) == 1 or tensor.endswith(ROUTER)


def plain_values(tensor, dims):
    if len(dims) == 1:
        return np.ones(dims, np.float32)
    return np.random.default_rng(zlib.crc32(tensor.encode())).normal(0, 0.05, dims).astype(np.float32)


def write(name, kind, path, layers):
    shape, moe, blocks = SHAPES[name], EXPERTS.get(name), Blocks(kind)
    shape = (layers or shape[0], *shape[1:])
    writer = GGUFWriter(path, "qwen3moe" if moe else "qwen3")
    metadata(writer, shape, moe, name, kind)
    for tensor, dims in tensors(shape, moe):
        if is_plain(tensor, dims):
            writer.add_tensor_info(tensor, dims, np.dtype(np.float32), 4 * math.prod(dims))
        else:
            size = blocks.size(math.prod(dims[:-1]), dims[-1])
            writer.add_tensor_info(tensor, (*dims[:-1], size // math.prod(dims[:-1])), np.dtype(np.uint8), size,
                                   raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, dims in tensors(shape, moe):
        plain = is_plain(tensor, dims)
        writer.write_tensor_data(plain_values(tensor, dims) if plain else blocks.matrix(tensor, math.prod(dims[:-1]), dims[-1]))
    writer.close()
    return sum(math.prod(dims) for _, dims in tensors(shape, moe))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=[name for name in SHAPES if name.startswith("qwen3-") and "next" not in name])
    parser.add_argument("type", choices=TYPES)
    parser.add_argument("file", type=Path)
    parser.add_argument("--layers", type=int, help="fewer layers than the published model")
    arguments = parser.parse_args()
    unfinished = arguments.file.with_suffix(".unfinished")
    weights = write(arguments.shape, arguments.type, unfinished, arguments.layers)
    os.replace(unfinished, arguments.file)
    size = arguments.file.stat().st_size
    print(f"{arguments.file}: {size / 1e9:.2f} GB, {8 * size / weights:.2f} bits per weight")
    return 0


if __name__ == "__main__":
    sys.exit(main())
