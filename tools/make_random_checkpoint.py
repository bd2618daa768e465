#!/usr/bin/env python3
"""Writes a random MLX-format checkpoint with the true shape of a published model, to measure memory and speed without its weights.

Usage: tools/make_random_checkpoint.py SHAPE DIRECTORY [--bits 4] [--group-size 64] [--layers N]; SHAPE is one of the names below.
Routers of experts have 8 bits, as mlx-lm gives them; their scores are random, and differ from token to token and from layer to layer.
Only the standard library is needed. Codes come from one random block that is repeated: speed and memory do not depend on the values.
The tokenizer knows bytes and pairs of them; a decimal digit is a token, so prompts of any length can be written down.
"""
import argparse
import array
import functools
import json
import os
import struct
import sys
import zlib
from pathlib import Path

# layers, hidden, heads, kv heads, head_dim, intermediate, tied (shapes of the published configs)
SHAPES = {
    "qwen3-0.6b": (28, 1024, 16, 8, 128, 3072, True),
    "qwen3-1.7b": (28, 2048, 16, 8, 128, 6144, True),
    "qwen3-4b": (36, 2560, 32, 8, 128, 9728, True),
    "qwen3-8b": (36, 4096, 32, 8, 128, 12288, False),
    "qwen3-30b-a3b": (48, 2048, 32, 4, 128, 6144, False),
}
# With latent attention: layers, hidden, heads, nope, rope, value, ranks of queries and of keys and values, intermediate, experts, of a
# token, their intermediate, shared ones, layers without, vocabulary
LATENT_SHAPES = {
    "glm-4.7-flash": (47, 2048, 20, 192, 64, 256, 768, 512, 10240, 64, 4, 1536, 1, 1, 154880),
}
# experts, how many of them a token passes, intermediate
EXPERTS = {"qwen3-30b-a3b": (128, 8, 768)}
VOCAB = 151936
CODES = os.urandom(1 << 24)


SCALE_BITS = array.array("H", (0x3B00 | byte for byte in os.urandom(1 << 20)))  # bf16 between 0.002 and 0.008
SCALES = SCALE_BITS.tobytes()


@functools.cache
def biases(bits):
    """Half the range of the codes below zero, so that weights are centred: routers would prefer the same experts for every token."""
    return array.array("H", (0x8000 | (scale + ((bits - 1) << 7)) for scale in SCALE_BITS)).tobytes()




def repeated(block, size, start=0):
    if start:
        yield block[start: start + size]
        size -= len(block) - start
    while size > 0:
        yield block[: min(size, len(block))]
        size -= len(block)


def matrix(name, out, columns, bits, group, experts=()):
    rows = out * (experts[0] if experts else 1)
    start = zlib.crc32(name.encode()) % (len(SCALES) // 4) * 4  # layers that were alike would make all tokens alike
    yield name + ".weight", "U32", [*experts, out, columns * bits // 32], CODES, rows * columns * bits // 8, start
    yield name + ".scales", "BF16", [*experts, out, columns // group], SCALES, rows * columns // group * 2, start
    yield name + ".biases", "BF16", [*experts, out, columns // group], biases(bits), rows * columns // group * 2, start


def vector(name, size):
    yield name + ".weight", "BF16", [size], b"\x80\x3f" * (1 << 16), 2 * size, 0  # ones


def tensors(shape, bits, group, moe):
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
        if moe:
            experts, _, width = moe
            yield from matrix(at + "mlp.gate", experts, hidden, 8, 64)
            for name, rows, columns in (("gate_proj", width, hidden), ("up_proj", width, hidden), ("down_proj", hidden, width)):
                yield from matrix(f"{at}mlp.switch_mlp.{name}", rows, columns, bits, group, (experts,))
            continue
        yield from matrix(at + "mlp.gate_proj", inner, hidden, bits, group)
        yield from matrix(at + "mlp.up_proj", inner, hidden, bits, group)
        yield from matrix(at + "mlp.down_proj", hidden, inner, bits, group)
    yield from vector("model.norm", hidden)
    if not tied:
        yield from matrix("lm_head", VOCAB, hidden, bits, group)


def latent_tensors(shape, bits, group):
    layers, hidden, heads, nope, rope, value, q_rank, rank, inner, experts, _, width, shared, dense, vocab = shape
    yield from matrix("model.embed_tokens", vocab, hidden, bits, group)

    def mlp(at, columns):
        yield from matrix(at + "gate_proj", columns, hidden, bits, group)
        yield from matrix(at + "up_proj", columns, hidden, bits, group)
        yield from matrix(at + "down_proj", hidden, columns, bits, group)

    for i in range(layers):
        at = f"model.layers.{i}."
        yield from vector(at + "input_layernorm", hidden)
        yield from vector(at + "post_attention_layernorm", hidden)
        yield from matrix(at + "self_attn.q_a_proj", q_rank, hidden, bits, group)
        yield from vector(at + "self_attn.q_a_layernorm", q_rank)
        yield from matrix(at + "self_attn.q_b_proj", heads * (nope + rope), q_rank, bits, group)
        yield from matrix(at + "self_attn.kv_a_proj_with_mqa", rank + rope, hidden, bits, group)
        yield from vector(at + "self_attn.kv_a_layernorm", rank)
        yield from matrix(at + "self_attn.embed_q", rank, nope, bits, group, (heads,))
        yield from matrix(at + "self_attn.unembed_out", value, rank, bits, group, (heads,))
        yield from matrix(at + "self_attn.o_proj", hidden, heads * value, bits, group)
        if i < dense:
            yield from mlp(at + "mlp.", inner)
            continue
        gate = array.array("H", (SCALE_BITS[(i * 8191 + k) % len(SCALE_BITS)] + 0x200 | (k * 40503 >> 7 & 1) << 15 for k in range(experts * hidden)))
        yield at + "mlp.gate.weight", "BF16", [experts, hidden], gate.tobytes(), 2 * experts * hidden, 0
        yield at + "mlp.gate.e_score_correction_bias", "F32", [experts], b"\0" * (4 * experts), 4 * experts, 0
        for name, rows, columns in (("gate_proj", width, hidden), ("up_proj", width, hidden), ("down_proj", hidden, width)):
            yield from matrix(f"{at}mlp.switch_mlp.{name}", rows, columns, bits, group, (experts,))
        yield from mlp(at + "mlp.shared_experts.", width * shared)
    yield from vector("model.norm", hidden)
    yield from matrix("lm_head", vocab, hidden, bits, group)


def latent_config(shape, bits, group):
    layers, hidden, heads, nope, rope, value, q_rank, rank, inner, experts, of_token, width, shared, dense, vocab = shape
    return {"architectures": ["Glm4MoeLiteForCausalLM"], "model_type": "glm4_moe_lite", "num_hidden_layers": layers,
            "hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": heads, "qk_nope_head_dim": nope,
            "qk_rope_head_dim": rope, "v_head_dim": value, "q_lora_rank": q_rank, "kv_lora_rank": rank, "intermediate_size": inner,
            "n_routed_experts": experts, "num_experts_per_tok": of_token, "moe_intermediate_size": width, "n_shared_experts": shared,
            "first_k_dense_replace": dense, "n_group": 1, "topk_group": 1, "topk_method": "noaux_tc", "norm_topk_prob": True,
            "routed_scaling_factor": 1.8, "num_nextn_predict_layers": 1, "vocab_size": vocab, "max_position_embeddings": 202752,
            "rms_norm_eps": 1e-5, "rope_theta": 1000000, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "quantization": {"group_size": group, "bits": bits, "mode": "affine"}}


def byte_letters():
    """The letters that byte-level BPE writes the 256 bytes with: printable Latin-1 as it is, the rest from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]


def vocabulary():
    """(tokens, merges): bytes, every pair of them with its merge, then unused ones; the last two are the control tokens."""
    letters = byte_letters()
    pairs = [(a, b) for a in letters for b in letters]
    tokens = letters + [a + b for a, b in pairs]
    return tokens + [f"<|unused_{i}|>" for i in range(VOCAB - len(tokens))], [f"{a} {b}" for a, b in pairs]


TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


def write_tokenizer(directory):
    tokens, merges = vocabulary()
    bytelevel = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    added = [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for i in (VOCAB - 2, VOCAB - 1)]
    split = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
                 "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytelevel]}, "post_processor": None, "decoder": bytelevel,
                 "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                           "fuse_unk": False, "byte_fallback": False, "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}}
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": tokens[-2], "eos_token": tokens[-1], "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(names, indent=1))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def config(shape, bits, group, moe):
    layers, hidden, heads, kv_heads, dim, inner, tied = shape
    quantization = {"group_size": group, "bits": bits, "mode": "affine"}
    name, extra = ("Qwen3", "qwen3"), {}
    if moe:
        name = ("Qwen3Moe", "qwen3_moe")
        extra = {"num_experts": moe[0], "num_experts_per_tok": moe[1], "moe_intermediate_size": moe[2], "norm_topk_prob": True,
                 "decoder_sparse_step": 1, "mlp_only_layers": []}
        quantization |= {f"model.layers.{i}.mlp.gate": {"group_size": 64, "bits": 8} for i in range(layers)}
    return extra | {"architectures": [name[0] + "ForCausalLM"], "model_type": name[1], "num_hidden_layers": layers, "hidden_size": hidden,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": dim, "intermediate_size": inner,
            "vocab_size": VOCAB, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000,
            "tie_word_embeddings": tied, "torch_dtype": "bfloat16", "quantization": quantization}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=[*SHAPES, *LATENT_SHAPES])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--bits", type=int, default=4, choices=(2, 3, 4, 5, 6, 8))
    parser.add_argument("--group-size", type=int, default=64, choices=(32, 64, 128))
    parser.add_argument("--layers", type=int, help="fewer than the model has, where memory is short")
    arguments = parser.parse_args()
    latent, moe = arguments.shape in LATENT_SHAPES, EXPERTS.get(arguments.shape, ())
    shape = (LATENT_SHAPES if latent else SHAPES)[arguments.shape]
    if arguments.layers:
        shape = (arguments.layers, *shape[1:])
    arguments.directory.mkdir(parents=True)
    bits, group = arguments.bits, arguments.group_size
    settings = latent_config(shape, bits, group) if latent else config(shape, bits, group, moe)
    (arguments.directory / "config.json").write_text(json.dumps(settings, indent=4))

    def all_tensors():
        return latent_tensors(shape, bits, group) if latent else tensors(shape, bits, group, moe)

    write_tokenizer(arguments.directory)

    header, offset = {"__metadata__": {"format": "mlx"}}, 0
    for name, dtype, dims, _, size, _ in all_tensors():
        header[name] = {"dtype": dtype, "shape": dims, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(arguments.directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, _, block, size, start in all_tensors():
            for piece in repeated(block, size, start):
                file.write(piece)
    print(f"{arguments.directory}: {offset / 1e9:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
