"""Makes tests/data/goldens/experts/<case>/: tiny random mixtures of experts, with every intermediate of a float64 pass.

Dense cases lie as Hugging Face writes them, a module for each expert; quantized ones are what mlx-lm makes of such a
checkpoint, experts stacked, routers at its own width. Cases are as those of models.py otherwise.
"""
import tempfile
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model, quantize_model

import float64
from common import agreement, dequantize64, make_all, store, store_case, widen, write_json, write_safetensors
from mlx_logits import mlx_logits
from models import COMMON, HEAD_DIM, TORCH
from quant import from_mx

TOKENS, WINDOW = 12, 5
SMALL = {"vocab_size": 64, "hidden_size": 64, "head_dim": HEAD_DIM, "tie_word_embeddings": False}
QWEN3_MOE = COMMON | SMALL | {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": False,
    "decoder_sparse_step": 1, "max_window_layers": 2, "mlp_only_layers": [], "moe_intermediate_size": 32,
    "norm_topk_prob": True, "num_experts": 8, "num_experts_per_tok": 3, "output_router_logits": False,
    "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001,
    "sliding_window": None, "use_sliding_window": False}
# Qwen1.5-MoE's file has no head_dim, and says its windows as Qwen2's does.
QWEN2_MOE = {k: v for k, v in (COMMON | SMALL | {
    "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "decoder_sparse_step": 1,
    "max_window_layers": 1, "moe_intermediate_size": 32, "norm_topk_prob": False, "num_experts": 6,
    "num_experts_per_tok": 2, "output_router_logits": False, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 64, "sliding_window": 4,
    "use_sliding_window": False}).items() if k != "head_dim"}
MIXTRAL = {k: v for k, v in (COMMON | SMALL | {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "intermediate_size": 32, "num_experts_per_tok": 2,
    "num_local_experts": 4, "output_router_logits": False, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02, "sliding_window": None}).items() if k != "head_dim"}


def mixed_widths(path, _):
    """Every width in one file, as mlx-lm's own mixed recipes have them."""
    for part, (bits, group) in {"shared_expert_gate": (8, 32), "down_proj": (6, 32), "v_proj": (5, 64),
                                "switch_mlp": (3, 32), "mlp.gate": (8, 64), "q_proj": (2, 32)}.items():
        if part in path:
            return {"bits": bits, "group_size": group}
    return True


# name -> config; dtype of the dense weights; mlx-lm's quantization, or None
CASES = {
    "qwen3_moe": (QWEN3_MOE, "bf16", None),
    "qwen3_moe_some_layers": (QWEN3_MOE | {"mlp_only_layers": [1], "norm_topk_prob": False}, "f16", None),
    "qwen3_moe_4bit": (QWEN3_MOE, "bf16", {"bits": 4, "group_size": 32}),
    "qwen3_moe_packaged_4bit": (QWEN3_MOE | {"num_hidden_layers": 1}, "bf16", {"bits": 4, "group_size": 32}),
    "qwen2_moe": (QWEN2_MOE, "bf16", None),
    "qwen2_moe_normalised": (QWEN2_MOE | {"norm_topk_prob": True, "num_hidden_layers": 1}, "bf16", None),
    "qwen2_moe_mixed_widths": (QWEN2_MOE, "f16", {"bits": 4, "group_size": 64, "quant_predicate": mixed_widths}),
    "mixtral": (MIXTRAL, "bf16", None),
    "mixtral_window": (MIXTRAL | {"sliding_window": WINDOW, "num_hidden_layers": 1}, "bf16", None),
    "mixtral_4bit": (MIXTRAL, "f16", {"bits": 4, "group_size": 32}),
}
# What mlx-lm 0.32.2 ignores: layers of windows, Qwen2-MoE's norm_topk_prob.
NOT_MLX = {"mixtral_window", "qwen2_moe_normalised"}


def has_experts(config, layer):
    return config["model_type"] == "mixtral" or layer not in config.get("mlp_only_layers", [])


def make_weights(config, seed):
    """Under Hugging Face's names, a module for each expert. Routers are sharp: no rounding changes a choice."""
    random = np.random.default_rng(seed)
    family, hidden, vocab = config["model_type"], config["hidden_size"], config["vocab_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    weights = {"model.embed_tokens.weight": random.normal(0, 1, (vocab, hidden)),
               "model.norm.weight": random.normal(1, 0.3, hidden)}

    def linear(name, rows, columns, bias=False, gain=1.5):
        weights[name + ".weight"] = random.normal(0, gain / np.sqrt(columns), (rows, columns))
        if bias:
            weights[name + ".bias"] = random.normal(0, 0.5, rows)

    def mlp(at, inner, names=("gate_proj", "up_proj", "down_proj")):
        linear(at + names[0], inner, hidden)
        linear(at + names[1], inner, hidden)
        linear(at + names[2], hidden, inner)

    linear("lm_head", vocab, hidden)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            linear(f"{at}self_attn.{name}_proj", rows, hidden, family == "qwen2_moe")
        linear(at + "self_attn.o_proj", hidden, q)
        if family == "qwen3_moe":
            for name in "qk":
                weights[f"{at}self_attn.{name}_norm.weight"] = random.normal(1, 0.3, head_dim)
        for name in ("input", "post_attention"):
            weights[f"{at}{name}_layernorm.weight"] = random.normal(1, 0.3, hidden)
        if not has_experts(config, i):
            mlp(at + "mlp.", config["intermediate_size"])
            continue
        block = at + ("block_sparse_moe." if family == "mixtral" else "mlp.")
        experts = config["num_local_experts" if family == "mixtral" else "num_experts"]
        linear(block + "gate", experts, hidden, gain=3)
        inner = config["intermediate_size" if family == "mixtral" else "moe_intermediate_size"]
        for e in range(experts):
            mlp(f"{block}experts.{e}.", inner, ("w1", "w3", "w2") if family == "mixtral" else
                ("gate_proj", "up_proj", "down_proj"))
        if family == "qwen2_moe":
            mlp(block + "shared_expert.", config["shared_expert_intermediate_size"])
            linear(block + "shared_expert_gate", 1, hidden)
    return weights


def quantized_by_mlx(folder, config, how):
    """(tensors, config, exact weights) of what mlx-lm makes of the dense checkpoint in `folder`."""
    model, _ = load_model(folder)
    model, config = quantize_model(model, dict(config), how["group_size"], how["bits"],
                                   quant_predicate=how.get("quant_predicate"))
    tensors = {name: from_mx(value) for name, value in tree_flatten(model.parameters())}
    exact = {}
    for name, value in tensors.items():
        path = name.removesuffix(".weight")
        if name.endswith((".scales", ".biases")):
            continue
        if path + ".scales" not in tensors:
            exact[name] = widen(value)
            continue
        entry = config["quantization"].get(path, config["quantization"])
        exact[name] = dequantize64(value, tensors[path + ".scales"], tensors[path + ".biases"], entry["bits"],
                                   entry["group_size"])
    return tensors, config, exact


def packaged(tensors, config):
    """As repositories with vision have it: the text model under `language_model.`, its config in `text_config`, tensors
    that text never passes beside it, no entry for routers of another width, and a number that JSON has not."""
    quantization = {key: value for key, value in config.pop("quantization").items() if not isinstance(value, dict)}
    tensors = {"language_model." + name: value for name, value in tensors.items()}
    for name in ("vision_tower.patch_embed.weight", "language_model.mtp.fc.weight", "mtp.norm.weight"):
        tensors[name] = np.ones((2, 3), np.float16)
    return tensors, {"model_type": "a_model_with_vision", "architectures": ["AModelWithVision"], "text_config": config,
                     "vision_config": {"hidden_size": 8, "limits": [0.0, {"__float__": "Infinity"}]},
                     "quantization": quantization, "tie_word_embeddings": False}


def make(name, folder):
    config, dtype, how = CASES[name]
    config = config | {"torch_dtype": TORCH[dtype]}
    seed = zlib.crc32(name.encode())
    stored = {key: store(value, dtype) for key, value in make_weights(config, seed).items()}
    tokens = np.random.default_rng(seed + 1).integers(0, config["vocab_size"], TOKENS).astype(np.int32)
    with tempfile.TemporaryDirectory() as scratch:
        dense, theirs = Path(scratch) / "dense", None
        write_json(dense / "config.json", config)
        write_safetensors(dense / "model.safetensors", stored, {"format": "pt"})
        tensors, new_config, exact = stored, config, {key: widen(value) for key, value in stored.items()}
        if how is not None:
            tensors, new_config, exact = quantized_by_mlx(dense, config, how)
            write_json(Path(scratch) / "q" / "config.json", new_config)
            write_safetensors(Path(scratch) / "q" / "model.safetensors", tensors)
        if name not in NOT_MLX and not config.get("mlp_only_layers"):
            theirs = mlx_logits(Path(scratch) / "q" if how is not None else dense, tokens)
        model, single = float64.build(dense, exact), float64.build(dense, exact, double=False)
    taps = float64.tapped(model, tokens)
    if "packaged" in name:
        tensors, new_config = packaged(tensors, dict(new_config))
    store_case(folder, new_config, tensors, taps, tokens, "mlx" if how is not None else "pt")
    return agreement(name, folder, taps["logits"], float64.logits(single, tokens, double=False), theirs, 3e-5)


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    make_all(__doc__, "experts", CASES, make)
