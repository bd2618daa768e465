#!/usr/bin/env python3
"""Writes a random MLX-format checkpoint with the true shape of a published model, to measure memory and speed without its weights.

Usage: tools/make_random_checkpoint.py SHAPE DIRECTORY [--bits 4] [--group-size 64] [--layers N]; SHAPE is one of the names below.
gpt-oss-20b has experts in mxfp4 and the rest at 8 bits, whatever is asked. Routers of experts have 8 bits, as mlx-lm gives them; their scores are random, and differ from token to token and from layer to layer.
Only the standard library is needed. Codes come from one random block that is repeated: speed and memory do not depend on the values.
The tokenizer knows bytes and pairs of them; a decimal digit is a token, so prompts of any length can be written down.
"""
import argparse
import array
import functools
import json
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from random_decoders import DECODERS  # noqa: E402
from random_tensors import SCALE_BITS, matrix, mxfp4_matrix, repeated, values, vector, zeros  # noqa: E402

# layers, hidden, heads, kv heads, head_dim, intermediate, tied (shapes of the published configs)
SHAPES = {
    "qwen3-0.6b": (28, 1024, 16, 8, 128, 3072, True),
    "qwen3-1.7b": (28, 2048, 16, 8, 128, 6144, True),
    "qwen3-4b": (36, 2560, 32, 8, 128, 9728, True),
    "qwen3-8b": (36, 4096, 32, 8, 128, 12288, False),
    "qwen3-30b-a3b": (48, 2048, 32, 4, 128, 6144, False),
    "gemma-2-2b": (26, 2304, 8, 4, 256, 9216, True),
    "gemma-3-4b": (34, 2560, 8, 4, 256, 10240, True),
    "gemma-4-e4b": (42, 2560, 8, 2, 256, 10240, True),
    "qwen3-next-80b-a3b": (48, 2048, 16, 2, 256, 5120, False),
    "qwen3.5-4b": (32, 2560, 16, 4, 256, 9216, True),
    "qwen3.5-35b-a3b": (40, 2048, 16, 2, 256, 512, False),
    "gpt-oss-20b": (24, 2880, 64, 8, 64, 2880, False),
    "lfm2-1.2b": (16, 2048, 32, 8, 64, 8192, True),
    "ministral-3-3b": (26, 3072, 32, 8, 128, 9216, True),
    "olmo-3-7b": (32, 4096, 32, 32, 128, 11008, False),
    "phi-4-mini": (32, 3072, 24, 8, 128, 8192, True),
}
# With latent attention: layers, hidden, heads, nope, rope, value, ranks of queries and of keys and values, intermediate, experts, of a
# token, their intermediate, shared ones, layers without, vocabulary
LATENT_SHAPES = {
    "glm-4.7-flash": (47, 2048, 20, 192, 64, 256, 768, 512, 10240, 64, 4, 1536, 1, 1, 154880),
    "deepseek-v2-lite": (27, 2048, 16, 128, 64, 128, 0, 512, 10944, 64, 6, 1408, 2, 1, 102400),
    "deepseek-v3": (61, 7168, 128, 128, 64, 128, 1536, 512, 18432, 256, 8, 2048, 1, 3, 129280),
}
# experts, how many of them a token passes, intermediate
EXPERTS = {"qwen3-30b-a3b": (128, 8, 768), "qwen3-next-80b-a3b": (512, 10, 512), "qwen3.5-35b-a3b": (256, 8, 512),
           "gpt-oss-20b": (32, 4, 2880)}
# of gated delta nets, in all layers but every fourth: key heads, value heads, and the size of both
DELTA = {"qwen3-next-80b-a3b": (16, 32, 128), "qwen3.5-4b": (16, 32, 128), "qwen3.5-35b-a3b": (16, 32, 128)}
# by the beginning of the shape's name
VOCAB = {"qwen3.5": 248320, "qwen3": 151936, "gemma-2": 256000, "gemma-3": 262208, "gemma-4": 262144, "gpt-oss": 201088,
         "lfm2": 65536, "ministral-3": 131072, "olmo-3": 100278, "phi-4": 200064}
SMALL = ("lfm2", "ministral-3", "olmo-3", "phi-4")  # families
# LFM2: its layers of attention.
ATTENDING = (2, 5, 8, 10, 12, 14)
# Gemma 4 E4B: the last layers read the keys and values of earlier ones; every sixth has wider heads; widths of layers' own embeddings.
SHARED, FULL_DIM, ASIDE = 18, 512, 256

def gpt_oss_tensors(shape, moe):
    """As mlx-community/gpt-oss-20b-MXFP4-Q8 has them: experts in mxfp4, the rest at 8 bits; biases everywhere."""
    layers, hidden, heads, kv_heads, dim, _, _ = shape
    experts, _, width = moe
    yield from matrix("model.embed_tokens", VOCAB["gpt-oss"], hidden, 8, 64)
    for i in range(layers):
        at = f"model.layers.{i}."
        yield from vector(at + "input_layernorm", hidden)
        for name, rows, columns in (("q", heads * dim, hidden), ("k", kv_heads * dim, hidden), ("v", kv_heads * dim, hidden),
                                    ("o", hidden, heads * dim)):
            yield from matrix(f"{at}self_attn.{name}_proj", rows, columns, 8, 64)
            yield from zeros(f"{at}self_attn.{name}_proj.bias", rows)
        yield from zeros(at + "self_attn.sinks", heads)
        yield from vector(at + "post_attention_layernorm", hidden)
        yield from matrix(at + "mlp.router", experts, hidden, 8, 64)
        yield from zeros(at + "mlp.router.bias", experts)
        for name, rows, columns in (("gate_proj", width, hidden), ("up_proj", width, hidden), ("down_proj", hidden, width)):
            yield from mxfp4_matrix(f"{at}mlp.experts.{name}", rows, columns, (experts,))
            yield from zeros(f"{at}mlp.experts.{name}.bias", experts, rows)
    yield from vector("model.norm", hidden)
    yield from matrix("lm_head", VOCAB["gpt-oss"], hidden, 8, 64)


def delta_net(at, fused, delta, hidden, bits, group):
    key_heads, value_heads, dim = delta
    keys, rows = key_heads * dim, value_heads * dim
    if fused:
        yield from matrix(at + "in_proj_qkvz", 2 * keys + 2 * rows, hidden, bits, group)
        yield from matrix(at + "in_proj_ba", 2 * value_heads, hidden, bits, group)
    else:
        yield from matrix(at + "in_proj_qkv", 2 * keys + rows, hidden, bits, group)
        yield from matrix(at + "in_proj_z", rows, hidden, bits, group)
        yield from matrix(at + "in_proj_b", value_heads, hidden, bits, group)
        yield from matrix(at + "in_proj_a", value_heads, hidden, bits, group)
    yield from values(at + "conv1d.weight", "BF16", [2 * keys + rows, 4, 1], (0.5, -0.25, 0.125, 0.75))
    yield from values(at + "A_log", "F32", [value_heads], (-2.0, 0.0, 1.0, 2.0))
    yield from values(at + "dt_bias", "BF16", [value_heads], (-4.0, -2.0, 0.0, 1.0))
    yield from vector(at + "norm", dim)
    yield from matrix(at + "out_proj", hidden, rows, bits, group)


def is_full(i, layers):
    return i % 6 == 5 or i == layers - 1


def shared(layers):
    """As many of fewer layers, where there is a full one for the others to read from."""
    return SHARED * layers // SHAPES["gemma-4-e4b"][0] if layers >= 14 else 0


def gemma_tensors(family, shape, bits, group):
    """The factors that norms multiply by are 1, or 2 where they are stored less one: values do not matter."""
    layers, hidden, heads, kv_heads, dim, inner, _ = shape
    four = family == "gemma-4"
    yield from matrix("model.embed_tokens", VOCAB[family], hidden, bits, group)
    if four:
        yield from matrix("model.embed_tokens_per_layer", VOCAB[family], layers * ASIDE, bits, group)
        yield from matrix("model.per_layer_model_projection", layers * ASIDE, hidden, bits, group)
        yield from vector("model.per_layer_projection_norm", ASIDE)
    for i in range(layers):
        at, size = f"model.layers.{i}.", FULL_DIM if four and is_full(i, layers) else dim
        own = not four or i < layers - shared(layers)
        for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            yield from vector(f"{at}{name}_layernorm", hidden)
        for name, heads_of in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            if name == "q" or own:
                yield from matrix(f"{at}self_attn.{name}_proj", heads_of * size, hidden, bits, group)
                if name != "v" and family != "gemma-2":
                    yield from vector(f"{at}self_attn.{name}_norm", size)
        yield from matrix(at + "self_attn.o_proj", hidden, heads * size, bits, group)
        for name, rows, columns in (("gate_proj", inner, hidden), ("up_proj", inner, hidden), ("down_proj", hidden, inner)):
            yield from matrix(f"{at}mlp.{name}", rows, columns, bits, group)
        if four:
            yield from matrix(at + "per_layer_input_gate", ASIDE, hidden, bits, group)
            yield from matrix(at + "per_layer_projection", hidden, ASIDE, bits, group)
            yield from vector(at + "post_per_layer_input_norm", hidden)
    yield from vector("model.norm", hidden)


def small_tensors(family, shape, bits, group):
    layers, hidden, heads, kv_heads, dim, inner, tied = shape
    q, kv, lfm2 = heads * dim, kv_heads * dim, family == "lfm2"
    before, after = {"lfm2": ("operator_norm", "ffn_norm"), "olmo-3": ("post_attention_layernorm", "post_feedforward_layernorm")}.get(
        family, ("input_layernorm", "post_attention_layernorm"))
    yield from matrix("model.embed_tokens", VOCAB[family], hidden, bits, group)
    for i in range(layers):
        at = f"model.layers.{i}."
        yield from vector(at + before, hidden)
        yield from vector(at + after, hidden)
        if lfm2 and i not in ATTENDING:
            yield from matrix(at + "conv.in_proj", 3 * hidden, hidden, bits, group)
            yield from values(at + "conv.conv.weight", "BF16", [hidden, 3, 1], (0.5, -0.25, 0.125, 0.75))
            yield from matrix(at + "conv.out_proj", hidden, hidden, bits, group)
        else:
            parts = (("qkv", q + 2 * kv),) if family == "phi-4" else (("q", q), ("k", kv), ("v", kv))
            for name, rows in parts:
                yield from matrix(f"{at}self_attn.{name}_proj", rows, hidden, bits, group)
            yield from matrix(f"{at}self_attn.{'out' if lfm2 else 'o'}_proj", hidden, q, bits, group)
            for name, rows in (("q", q), ("k", kv)):
                if lfm2:
                    yield from vector(f"{at}self_attn.{name}_layernorm", dim)
                if family == "olmo-3":
                    yield from vector(f"{at}self_attn.{name}_norm", rows)
        wide = ("feed_forward.w1", "feed_forward.w3") if lfm2 else ("mlp.gate_up_proj",) if family == "phi-4" else ("mlp.gate_proj", "mlp.up_proj")
        for name in wide:
            yield from matrix(at + name, 2 * inner // len(wide), hidden, bits, group)
        yield from matrix(at + ("feed_forward.w2" if lfm2 else "mlp.down_proj"), hidden, inner, bits, group)
    yield from vector("model.embedding_norm" if lfm2 else "model.norm", hidden)
    if not tied:
        yield from matrix("lm_head", VOCAB[family], hidden, bits, group)


def small_config(family, layers):
    """What the config of a small family has beside the sizes."""
    if family == "lfm2":
        kinds = ["full_attention" if i in ATTENDING else "conv" for i in range(layers)]
        return {"architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", "norm_eps": 1e-5, "block_auto_adjust_ff_dim": False,
                "conv_L_cache": 3, "conv_bias": False, "layer_types": kinds, "max_position_embeddings": 128000, "rope_theta": 1000000.0}
    yarn = {"rope_type": "yarn", "beta_fast": 32.0, "beta_slow": 1.0}
    if family == "ministral-3":
        return {"architectures": ["Ministral3ForCausalLM"], "model_type": "ministral3", "max_position_embeddings": 262144,
                "rope_parameters": yarn | {"factor": 16.0, "llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0,
                                           "original_max_position_embeddings": 16384, "rope_theta": 1000000.0}}
    if family == "olmo-3":
        kinds = ["full_attention" if i % 4 == 3 else "sliding_attention" for i in range(layers)]
        return {"architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", "max_position_embeddings": 65536, "rope_theta": 500000.0,
                "sliding_window": 4096, "layer_types": kinds,
                "rope_scaling": yarn | {"factor": 8.0, "original_max_position_embeddings": 8192, "attention_factor": 1.2079441541679836}}
    return {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75, "rope_theta": 10000.0, "sliding_window": 262144,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [1.0 + i for i in range(48)]}}


def tensors(family, shape, bits, group, moe, delta, fused):
    if family in SMALL:
        yield from small_tensors(family, shape, bits, group)
        return
    if family.startswith("gemma"):
        yield from gemma_tensors(family, shape, bits, group)
        return
    if family == "gpt-oss":
        yield from gpt_oss_tensors(shape, moe)
        return
    vocab = VOCAB[family]
    layers, hidden, heads, kv_heads, dim, inner, tied = shape
    yield from matrix("model.embed_tokens", vocab, hidden, bits, group)
    for i in range(layers):
        at = f"model.layers.{i}."
        yield from vector(at + "input_layernorm", hidden)
        if delta and (i + 1) % 4:
            yield from delta_net(at + "linear_attn.", fused, delta, hidden, bits, group)
        else:
            yield from matrix(at + "self_attn.q_proj", (2 if delta else 1) * heads * dim, hidden, bits, group)
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
            if delta:  # one more that all tokens pass
                yield from matrix(at + "mlp.shared_expert_gate", 1, hidden, 8, 64)
                for name, rows, columns in (("gate_proj", width, hidden), ("up_proj", width, hidden), ("down_proj", hidden, width)):
                    yield from matrix(f"{at}mlp.shared_expert.{name}", rows, columns, bits, group)
            continue
        yield from matrix(at + "mlp.gate_proj", inner, hidden, bits, group)
        yield from matrix(at + "mlp.up_proj", inner, hidden, bits, group)
        yield from matrix(at + "mlp.down_proj", hidden, inner, bits, group)
    yield from vector("model.norm", hidden)
    if not tied:
        yield from matrix("lm_head", vocab, hidden, bits, group)


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
        if q_rank:
            yield from matrix(at + "self_attn.q_a_proj", q_rank, hidden, bits, group)
            yield from vector(at + "self_attn.q_a_layernorm", q_rank)
            yield from matrix(at + "self_attn.q_b_proj", heads * (nope + rope), q_rank, bits, group)
        else:
            yield from matrix(at + "self_attn.q_proj", heads * (nope + rope), hidden, bits, group)
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
        if q_rank:  # the choice of DeepSeek-V3 and later
            yield at + "mlp.gate.e_score_correction_bias", "F32", [experts], b"\0" * (4 * experts), 4 * experts, 0
        for name, rows, columns in (("gate_proj", width, hidden), ("up_proj", width, hidden), ("down_proj", hidden, width)):
            yield from matrix(f"{at}mlp.switch_mlp.{name}", rows, columns, bits, group, (experts,))
        yield from mlp(at + "mlp.shared_experts.", width * shared)
    yield from vector("model.norm", hidden)
    yield from matrix("lm_head", vocab, hidden, bits, group)


def latent_config(name, shape, bits, group):
    layers, hidden, heads, nope, rope, value, q_rank, rank, inner, experts, of_token, width, shared, dense, vocab = shape
    common = {"num_hidden_layers": layers,
              "hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": heads, "qk_nope_head_dim": nope,
              "qk_rope_head_dim": rope, "v_head_dim": value, "q_lora_rank": q_rank or None, "kv_lora_rank": rank, "intermediate_size": inner,
              "n_routed_experts": experts, "num_experts_per_tok": of_token, "moe_intermediate_size": width, "n_shared_experts": shared,
              "first_k_dense_replace": dense, "vocab_size": vocab, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
              "quantization": {"group_size": group, "bits": bits, "mode": "affine"}}
    if name.startswith("glm"):
        return common | {"architectures": ["Glm4MoeLiteForCausalLM"], "model_type": "glm4_moe_lite", "n_group": 1, "topk_group": 1,
                         "topk_method": "noaux_tc", "norm_topk_prob": True, "routed_scaling_factor": 1.8, "num_nextn_predict_layers": 1,
                         "max_position_embeddings": 202752, "rms_norm_eps": 1e-5, "rope_theta": 1000000}
    yarn = {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "original_max_position_embeddings": 4096}
    both = common | {"max_position_embeddings": 163840, "rms_norm_eps": 1e-6, "rope_theta": 10000}
    if name == "deepseek-v3":
        return both | {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "n_group": 8, "topk_group": 4,
                       "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True, "routed_scaling_factor": 2.5,
                       "moe_layer_freq": 1, "num_nextn_predict_layers": 1, "rope_scaling": yarn | {"mscale": 1.0, "mscale_all_dim": 1.0}}
    return both | {"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "n_group": 1, "topk_group": 1,
                   "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": False, "routed_scaling_factor": 1.0,
                   "moe_layer_freq": 1, "rope_scaling": yarn | {"mscale": 0.707, "mscale_all_dim": 0.707}}


def byte_letters():
    """The letters that byte-level BPE writes the 256 bytes with: printable Latin-1 as it is, the rest from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]


def vocabulary(vocab):
    """(tokens, merges): bytes, every pair of them with its merge, then unused ones; the last two are the control tokens."""
    letters = byte_letters()
    pairs = [(a, b) for a in letters for b in letters][: vocab - len(letters) - 2]
    tokens = letters + [a + b for a, b in pairs]
    return tokens + [f"<|unused_{i}|>" for i in range(vocab - len(tokens))], [f"{a} {b}" for a, b in pairs]


TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


def write_tokenizer(directory, vocab):
    tokens, merges = vocabulary(vocab)
    bytelevel = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    added = [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for i in (vocab - 2, vocab - 1)]
    split = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
                 "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytelevel]}, "post_processor": None, "decoder": bytelevel,
                 "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                           "fuse_unk": False, "byte_fallback": False, "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}}
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": tokens[-2], "eos_token": tokens[-1], "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(names, indent=1))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def gpt_oss_config(shape, moe):
    layers, hidden, heads, kv_heads, dim, inner, tied = shape
    eight = [f"model.layers.{i}.{name}" for i in range(layers)
             for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.router")]
    quantization = {"group_size": 32, "bits": 4, "mode": "mxfp4"} | {
        name: {"group_size": 64, "bits": 8} for name in ("model.embed_tokens", "lm_head", *eight)}
    return {"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "num_hidden_layers": layers, "hidden_size": hidden,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": dim, "intermediate_size": inner,
            "num_local_experts": moe[0], "num_experts_per_tok": moe[1], "vocab_size": VOCAB["gpt-oss"], "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 150000, "sliding_window": 128, "swiglu_limit": 7.0, "attention_bias": True,
            "layer_types": [("sliding_attention", "full_attention")[i % 2] for i in range(layers)],
            "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                             "original_max_position_embeddings": 4096},
            "tie_word_embeddings": tied, "torch_dtype": "bfloat16", "quantization": quantization}


def gemma_config(family, layers):
    """What a Gemma's config has beside the sizes."""
    common = {"hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192 if family == "gemma-2" else 131072}
    if family == "gemma-2":
        return common | {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "sliding_window": 4096, "query_pre_attn_scalar": 256,
                         "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "rope_theta": 10000.0}
    if family == "gemma-3":
        return common | {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "sliding_window": 1024, "query_pre_attn_scalar": 256,
                         "sliding_window_pattern": 6, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
                         "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}
    kinds = ["full_attention" if is_full(i, layers) else "sliding_attention" for i in range(layers)]
    return common | {"architectures": ["Gemma4ForCausalLM"], "model_type": "gemma4_text", "sliding_window": 512, "layer_types": kinds,
                     "global_head_dim": FULL_DIM, "num_kv_shared_layers": shared(layers), "hidden_size_per_layer_input": ASIDE,
                     "vocab_size_per_layer_input": VOCAB[family], "final_logit_softcapping": 30.0, "use_double_wide_mlp": False,
                     "attention_k_eq_v": False, "enable_moe_block": False}


def config(family, shape, bits, group, moe, delta, fused):
    if family == "gpt-oss":
        return gpt_oss_config(shape, moe)
    layers, hidden, heads, kv_heads, dim, inner, tied = shape
    quantization = {"group_size": group, "bits": bits, "mode": "affine"}
    name, extra = ("Qwen3", "qwen3"), {}
    if moe:
        name = ("Qwen3Moe", "qwen3_moe")
        extra = {"num_experts": moe[0], "num_experts_per_tok": moe[1], "moe_intermediate_size": moe[2], "norm_topk_prob": True,
                 "decoder_sparse_step": 1, "mlp_only_layers": []}
        quantization |= {f"model.layers.{i}.mlp.gate": {"group_size": 64, "bits": 8} for i in range(layers)}
        if delta:
            extra |= {"shared_expert_intermediate_size": moe[2]}
            quantization |= {f"model.layers.{i}.mlp.shared_expert_gate": {"group_size": 64, "bits": 8} for i in range(layers)}
    if delta:
        name = ("Qwen3Next", "qwen3_next") if fused else ("Qwen3_5Moe", "qwen3_5_moe") if moe else ("Qwen3_5", "qwen3_5")
        extra |= {"linear_num_key_heads": delta[0], "linear_num_value_heads": delta[1], "linear_key_head_dim": delta[2],
                  "linear_value_head_dim": delta[2], "linear_conv_kernel_dim": 4, "full_attention_interval": 4,
                  "partial_rotary_factor": 0.25}
    rest = {"architectures": [name[0] + "ForCausalLM"], "model_type": name[1], "max_position_embeddings": 40960, "rope_theta": 1000000}
    if family.startswith("gemma"):
        rest = gemma_config(family, layers)
    if family in SMALL:
        rest = small_config(family, layers)
    return extra | rest | {"num_hidden_layers": layers, "hidden_size": hidden,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": dim, "intermediate_size": inner,
            "vocab_size": VOCAB[family], "rms_norm_eps": 1e-6,
            "tie_word_embeddings": tied, "torch_dtype": "bfloat16", "quantization": quantization}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=[*SHAPES, *DECODERS, *LATENT_SHAPES])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--bits", type=int, default=4, choices=(2, 3, 4, 5, 6, 8))
    parser.add_argument("--group-size", type=int, default=64, choices=(32, 64, 128))
    parser.add_argument("--layers", type=int, help="fewer than the model has, where memory is short")
    arguments = parser.parse_args()
    bits, group = arguments.bits, arguments.group_size
    if arguments.shape in DECODERS:
        decoder = DECODERS[arguments.shape].with_layers(arguments.layers)
        settings, vocab = decoder.config(bits, group), decoder.vocab
        all_tensors = functools.partial(decoder.tensors, bits, group)
    elif arguments.shape in LATENT_SHAPES:
        shape = LATENT_SHAPES[arguments.shape]
        shape = (arguments.layers or shape[0], *shape[1:])
        settings, vocab = latent_config(arguments.shape, shape, bits, group), shape[-1]
        all_tensors = functools.partial(latent_tensors, shape, bits, group)
    else:
        shape = SHAPES[arguments.shape]
        family = next(name for name in VOCAB if arguments.shape.startswith(name))
        form = (family, (arguments.layers or shape[0], *shape[1:]), bits, group, EXPERTS.get(arguments.shape, ()),
                DELTA.get(arguments.shape, ()), arguments.shape.startswith("qwen3-next"))
        settings, vocab = config(*form), VOCAB[family]
        all_tensors = functools.partial(tensors, *form)
    arguments.directory.mkdir(parents=True)
    (arguments.directory / "config.json").write_text(json.dumps(settings, indent=4))
    write_tokenizer(arguments.directory, vocab)

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
