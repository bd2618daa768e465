#!/usr/bin/env python3
"""Writes a random MLX-format checkpoint with the true shape of a published model, to measure memory and speed without its weights.

Usage: tools/make_random_checkpoint.py SHAPE DIRECTORY [--bits 4] [--group-size 64]; SHAPE is one of the names below.
Only the standard library is needed. Codes come from one random block that is repeated: speed and memory do not depend on the values.
There is no tokenizer: `bumblebee logits` and `bumblebee info` need none.
"""
import argparse
import array
import json
import os
import struct
import sys
from pathlib import Path

# layers, hidden, heads, kv heads, head_dim, intermediate, tied (shapes of the published configs)
SHAPES = {
    "qwen3-0.6b": (28, 1024, 16, 8, 128, 3072, True),
    "qwen3-1.7b": (28, 2048, 16, 8, 128, 6144, True),
    "qwen3-4b": (36, 2560, 32, 8, 128, 9728, True),
    "qwen3-8b": (36, 4096, 32, 8, 128, 12288, False),
}
VOCAB = 151936
CODES = os.urandom(1 << 24)


def scale_block(count):
    """`count` bf16 scales between 0.002 and 0.008, and biases of -8 scales, so that weights are centred."""
    scales = array.array("H", (0x3B00 | byte for byte in os.urandom(count)))
    biases = array.array("H", (0x8000 | (bits + (3 << 7)) for bits in scales))
    return scales.tobytes(), biases.tobytes()


SCALES, BIASES = scale_block(1 << 20)


def repeated(block, size):
    while size > 0:
        yield block[: min(size, len(block))]
        size -= len(block)


def matrix(name, out, columns, bits, group):
    yield name + ".weight", "U32", [out, columns * bits // 32], CODES, out * columns * bits // 8
    yield name + ".scales", "BF16", [out, columns // group], SCALES, out * columns // group * 2
    yield name + ".biases", "BF16", [out, columns // group], BIASES, out * columns // group * 2


def vector(name, size):
    yield name + ".weight", "BF16", [size], b"\x80\x3f" * (1 << 16), 2 * size  # ones


def tensors(shape, bits, group):
    layers, hidden, heads, kv_heads, dim, inner, tied = shape
    yield from matrix("model.embed_tokens", VOCAB, hidden, bits, group)
    for i in range(layers):
        at = f"model.layers.{i}."
        yield from vector(at + "input_layernorm", hidden)
        yield from matrix(at + "self_attn.q_proj", heads * dim, hidden, bits, group)
        yield from matrix(at + "self_attn.k_proj", kv_heads * dim, hidden, bits, group)
        yield from matrix(at + "self_attn.v_proj", kv_heads * dim, hidden, bits, group)
        yield from matrix(at + "self_attn.o_proj", hidden, heads * dim, bits, group)
        yield from vector(at + "self_attn.q_norm", dim)
        yield from vector(at + "self_attn.k_norm", dim)
        yield from vector(at + "post_attention_layernorm", hidden)
        yield from matrix(at + "mlp.gate_proj", inner, hidden, bits, group)
        yield from matrix(at + "mlp.up_proj", inner, hidden, bits, group)
        yield from matrix(at + "mlp.down_proj", hidden, inner, bits, group)
    yield from vector("model.norm", hidden)
    if not tied:
        yield from matrix("lm_head", VOCAB, hidden, bits, group)


def config(shape, bits, group):
    layers, hidden, heads, kv_heads, dim, inner, tied = shape
    quantization = {"group_size": group, "bits": bits, "mode": "affine"}
    return {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "num_hidden_layers": layers, "hidden_size": hidden,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": dim, "intermediate_size": inner,
            "vocab_size": VOCAB, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000,
            "tie_word_embeddings": tied, "torch_dtype": "bfloat16", "quantization": quantization}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--bits", type=int, default=4, choices=(2, 3, 4, 5, 6, 8))
    parser.add_argument("--group-size", type=int, default=64, choices=(32, 64, 128))
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    arguments.directory.mkdir(parents=True)
    (arguments.directory / "config.json").write_text(json.dumps(config(shape, arguments.bits, arguments.group_size), indent=4))

    header, offset = {"__metadata__": {"format": "mlx"}}, 0
    for name, dtype, dims, _, size in tensors(shape, arguments.bits, arguments.group_size):
        header[name] = {"dtype": dtype, "shape": dims, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(arguments.directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, _, block, size in tensors(shape, arguments.bits, arguments.group_size):
            for piece in repeated(block, size):
                file.write(piece)
    print(f"{arguments.directory}: {offset / 1e9:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
