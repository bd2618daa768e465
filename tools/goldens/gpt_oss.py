"""Makes tests/data/goldens/gpt_oss/<case>/: tiny random models of the gpt-oss family, with every intermediate of a
float64 pass, stored as mlx-lm stores them: dense, or experts in mxfp4 and the rest at 8 bits.

Rotations follow transformers where `truncate` is false, which mlx-lm ignores: it is asked about the other cases.
"""
import tempfile
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model, quantize_model

import float64
from common import agreement, dequantize64, make_all, store, store_case, unpack, widen, write_json, write_safetensors
from float_codes import decode
from mlx_logits import mlx_logits
from models import TORCH
from quant import from_mx, to_mx

TOKENS, WINDOW = 12, 5
YARN = {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 64}
CONFIG = {
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "attention_bias": True, "head_dim": 16,
    "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 64, "initializer_range": 0.02,
    "layer_types": ["sliding_attention", "full_attention"], "max_position_embeddings": 512, "num_attention_heads": 4,
    "num_experts_per_tok": 3, "num_hidden_layers": 2, "num_key_value_heads": 2, "num_local_experts": 6,
    "experts_per_token": 3, "output_router_logits": False, "rms_norm_eps": 1e-5, "rope_theta": 150000,
    "rope_scaling": YARN | {"truncate": False}, "router_aux_loss_coef": 0.9, "sliding_window": WINDOW,
    "initial_context_length": 64, "swiglu_limit": 7.0, "tie_word_embeddings": False, "vocab_size": 64}
# name -> config; dtype; whether mlx-lm quantizes it
CASES = {
    "gpt_oss": (CONFIG, "bf16", False),
    "gpt_oss_truncated": (CONFIG | {"rope_scaling": YARN, "num_hidden_layers": 2}, "bf16", False),
    "gpt_oss_mxfp4": (CONFIG | {"rope_scaling": YARN}, "bf16", True),
    "gpt_oss_blocks": (CONFIG | {"rope_scaling": YARN}, "bf16", "blocks"),
}


def make_weights(config, seed):
    """Under mlx-lm's names. Routers are sharp; sinks take a good part; some gates and ups are beyond the limits."""
    random = np.random.default_rng(seed)
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, count = config["num_attention_heads"], config["num_local_experts"]
    q, kv = heads * config["head_dim"], config["num_key_value_heads"] * config["head_dim"]
    weights = {"model.embed_tokens.weight": random.normal(0, 1, (vocab, hidden)),
               "model.norm.weight": random.normal(1, 0.3, hidden),
               "lm_head.weight": random.normal(0, 1.5 / np.sqrt(hidden), (vocab, hidden))}

    def linear(name, shape, gain=1.5):
        weights[name + ".weight"] = random.normal(0, gain / np.sqrt(shape[-1]), shape)
        weights[name + ".bias"] = random.normal(0, 0.5, shape[:-1])

    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            linear(f"{at}self_attn.{name}_proj", (rows, hidden))
        linear(at + "self_attn.o_proj", (hidden, q))
        weights[at + "self_attn.sinks"] = random.normal(1, 1.5, heads)
        for name in ("input", "post_attention"):
            weights[f"{at}{name}_layernorm.weight"] = random.normal(1, 0.3, hidden)
        linear(at + "mlp.router", (count, hidden), gain=3)
        for name in ("gate_proj", "up_proj"):
            linear(f"{at}mlp.experts.{name}", (count, inner, hidden), gain=4)
        linear(at + "mlp.experts.down_proj", (count, hidden, inner))
    return weights


def of_transformers(weights):
    """gate and up interleaved in one tensor, matrices the other way round."""
    result = {}
    for name, value in weights.items():
        at, _, leaf = name.partition("experts.")
        if not leaf:
            result[name] = value
        elif leaf.startswith("gate_proj"):
            up = weights[name.replace("gate_proj", "up_proj")]
            pairs = np.stack([value, up], axis=2).reshape(value.shape[0], -1, *value.shape[2:])
            if leaf.endswith("weight"):
                result[at + "experts.gate_up_proj"] = pairs.transpose(0, 2, 1)
            else:
                result[at + "experts.gate_up_proj_bias"] = pairs
        elif leaf == "down_proj.weight":
            result[at + "experts.down_proj"] = value.transpose(0, 2, 1)
        elif leaf == "down_proj.bias":
            result[at + "experts.down_proj_bias"] = value
    return result


def as_released(path, _):
    """Experts in mxfp4; an entry without a mode for every other module."""
    return {"group_size": 32, "bits": 4, "mode": "mxfp4"} if ".experts." in path else {"group_size": 64, "bits": 8}


def quantized_by_mlx(folder, config):
    model, _ = load_model(folder)
    model, config = quantize_model(model, dict(config), 32, 4, mode="mxfp4", quant_predicate=as_released)
    entries = config["quantization"]
    for path in [p for p in entries if ".experts." in p]:
        del entries[path]
    config["quantization_config"] = entries
    tensors = {name: from_mx(value) for name, value in tree_flatten(model.parameters())}
    exact = {}
    for name, value in tensors.items():
        path = name.removesuffix(".weight")
        if name.endswith((".scales", ".biases")):
            continue
        if path + ".biases" in tensors:
            exact[name] = dequantize64(value, tensors[path + ".scales"], tensors[path + ".biases"], 8, 64)
        elif path + ".scales" in tensors and name.endswith(".weight"):
            exact[name] = decode(unpack(value, 4), tensors[path + ".scales"], "mxfp4")
        else:
            exact[name] = widen(value)
    return tensors, config, exact


def as_published(tensors, config):
    """As OpenAI's own files have it: the experts in blocks, gate and up in turns, the rest dense."""
    published, exact = {}, {}
    for name, value in tensors.items():
        if ".experts." not in name:
            published[name], exact[name] = value, widen(value)
        elif name.endswith(".bias"):
            exact[name] = widen(value)
        else:
            words, scales = (np.array(v) for v in mx.quantize(to_mx(value), mode="mxfp4", stream=mx.cpu))
            exact[name] = decode(unpack(words, 4), scales, "mxfp4")
            published[name] = (words.view(np.uint8).reshape(*scales.shape, 16), scales)
    for name in [n for n in tensors if ".experts." in n]:
        at, leaf = name.split("experts.")
        base = at + "experts." + leaf.split(".")[0].replace("gate_proj", "gate_up_proj")
        if "up_proj." in leaf:
            published.pop(name, None)
            continue
        twin = name.replace("gate_proj", "up_proj")
        turns = (lambda a, b: np.stack([a, b], axis=2).reshape(a.shape[0], -1, *a.shape[2:])) if "gate" in leaf else (
            lambda a, _: a)
        if name.endswith(".bias"):
            published[base + "_bias"] = store(turns(widen(tensors[name]), widen(tensors[twin])), "bf16")
        else:
            mine, other = published.pop(name), published.get(twin)
            published[base + "_blocks"], published[base + "_scales"] = (
                turns(a, b) for a, b in zip(mine, other or mine))
    published = {name: value for name, value in published.items() if not isinstance(value, tuple)}
    method = {"quant_method": "mxfp4", "modules_to_not_convert": [
        "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}
    return published, config | {"quantization_config": method}, exact


def make(name, folder):
    config, dtype, quantized = CASES[name]
    config = config | {"torch_dtype": TORCH[dtype]}
    seed = zlib.crc32(name.encode())
    tensors = {key: store(value, dtype) for key, value in make_weights(config, seed).items()}
    tokens = np.random.default_rng(seed + 1).integers(0, config["vocab_size"], TOKENS).astype(np.int32)
    with tempfile.TemporaryDirectory() as scratch:
        dense, theirs, new_config = Path(scratch) / "dense", None, config
        write_json(dense / "config.json", config)
        write_safetensors(dense / "model.safetensors", tensors, {"format": "mlx"})
        exact = {key: widen(value) for key, value in tensors.items()}
        if quantized:
            tensors, new_config, exact = (as_published(tensors, config) if quantized == "blocks" else
                                          quantized_by_mlx(dense, config))
            write_json(Path(scratch) / "q" / "config.json", new_config)
            write_safetensors(Path(scratch) / "q" / "model.safetensors", tensors)
        if config["rope_scaling"].get("truncate", True):
            theirs = mlx_logits(Path(scratch) / "q" if quantized else dense, tokens)
        model = float64.build(dense, of_transformers(exact))
        single = float64.build(dense, of_transformers(exact), double=False)
    taps = float64.tapped(model, tokens)
    store_case(folder, new_config, tensors, taps, tokens)
    return agreement(name, folder, taps["logits"], float64.logits(single, tokens, double=False), theirs, 3e-5)


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    make_all(__doc__, "gpt_oss", CASES, make)
