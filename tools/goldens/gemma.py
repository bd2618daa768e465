"""Makes tests/data/goldens/gemma/<case>/: tiny random Gemmas 2, 3 and 4 with every intermediate of a float64 pass.

Cases are as those of experts.py: dense ones as they lie in MLX's files, quantized ones as mlx-lm makes them. The
embedding's factor is rounded to the dtype of the weights, as the models' own code does.
"""
import contextlib
import sys
import tempfile
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import float64
from common import errors, make_all, store, store_case, widen, write_json, write_safetensors
from experts import quantized_by_mlx
from mlx_logits import mlx_logits
from models import TORCH

TOKENS, WINDOW = 5, 3
SLIDING, FULL = "sliding_attention", "full_attention"
COMMON = {"attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 2, "eos_token_id": 1, "head_dim": 8,
          "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 32, "intermediate_size": 32,
          "max_position_embeddings": 512, "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
          "pad_token_id": 0, "rms_norm_eps": 1e-6, "sliding_window": WINDOW, "tie_word_embeddings": True,
          "use_cache": True, "vocab_size": 48}
GEMMA2 = COMMON | {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "hidden_act": "gelu_pytorch_tanh",
                   "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 24,
                   "rope_theta": 10000.0, "cache_implementation": "hybrid"}
GEMMA3 = COMMON | {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "query_pre_attn_scalar": 24,
                   "attn_logit_softcapping": None, "final_logit_softcapping": None, "rope_local_base_freq": 10000.0,
                   "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window_pattern": 2}
GEMMA4 = COMMON | {
    "architectures": ["Gemma4ForCausalLM"], "model_type": "gemma4_text", "attention_k_eq_v": False,
    "enable_moe_block": False, "final_logit_softcapping": 3.0, "global_head_dim": 16,
    "hidden_size_per_layer_input": 0, "num_global_key_value_heads": None, "num_kv_shared_layers": 0,
    "layer_types": [SLIDING, FULL], "num_experts": None, "top_k_experts": None, "moe_intermediate_size": None,
    "use_double_wide_mlp": False, "vocab_size_per_layer_input": 48, "rope_parameters": {
        FULL: {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
        SLIDING: {"rope_theta": 10000.0, "rope_type": "default"}}}


def narrow_router(path, _):
    return {"bits": 8, "group_size": 32} if path.endswith("router.proj") else True


FOUR = {"bits": 4, "group_size": 32}
# name -> config; dtype of the dense weights; mlx-lm's quantization, or None
CASES = {
    "gemma2_4bit": (GEMMA2, "bf16", FOUR),
    "gemma3_packaged_4bit": (GEMMA3 | {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}}, "bf16", FOUR),
    "gemma4_e_4bit": (GEMMA4 | {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "use_double_wide_mlp": True,
                                "layer_types": [SLIDING, FULL] * 2, "hidden_size_per_layer_input": 32,
                                "num_key_value_heads": 1}, "bf16", FOUR),
    "gemma4_moe_4bit": (GEMMA4 | {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "enable_moe_block": True,
                                  "num_experts": 5, "top_k_experts": 2, "moe_intermediate_size": 32,
                                  "vocab_size": 32}, "bf16",
                        FOUR | {"quant_predicate": narrow_router}),
}


def make_weights(config, seed):
    """Under mlx-lm's names. Norms of Gemma 2 and 3 are stored less one."""
    random = np.random.default_rng(seed)
    hidden, heads, four = config["hidden_size"], config["num_attention_heads"], config["model_type"] == "gemma4_text"
    layers, aside = config["num_hidden_layers"], config.get("hidden_size_per_layer_input", 0)
    shared_from = layers - config.get("num_kv_shared_layers", 0)
    weights = {"model.embed_tokens.weight": random.normal(0, 1, (config["vocab_size"], hidden))}

    def norm(name, size):
        weights[name + ".weight"] = random.normal(1 if four else 0, 0.3, size)

    def linear(name, rows, columns, gain=1.5):
        weights[name + ".weight"] = random.normal(0, gain / np.sqrt(columns), (rows, columns))

    norm("model.norm", hidden)
    if aside:
        weights["model.embed_tokens_per_layer.weight"] = random.normal(0, 0.3, (config["vocab_size"], layers * aside))
        linear("model.per_layer_model_projection", layers * aside, hidden)
        norm("model.per_layer_projection_norm", aside)
    for i in range(layers):
        at = f"model.layers.{i}."
        full, own = four and config["layer_types"][i] == FULL, i < shared_from
        dim = config["global_head_dim"] if full else config["head_dim"]
        same = full and config["attention_k_eq_v"]
        kv = (config["num_global_key_value_heads"] if same else config["num_key_value_heads"]) * dim
        linear(at + "self_attn.q_proj", heads * dim, hidden)
        linear(at + "self_attn.o_proj", hidden, heads * dim)
        if own:
            linear(at + "self_attn.k_proj", kv, hidden)
            if not same:
                linear(at + "self_attn.v_proj", kv, hidden)
        if config["model_type"] != "gemma2":
            norm(at + "self_attn.q_norm", dim)
            if own:
                norm(at + "self_attn.k_norm", dim)
        for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            norm(f"{at}{name}_layernorm", hidden)
        inner = config["intermediate_size"] * (2 if not own and config["use_double_wide_mlp"] else 1)
        for name, rows, columns in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
            linear(f"{at}mlp.{name}_proj", rows, columns)
        if four:
            weights[at + "layer_scalar"] = random.normal(0.7, 0.1, 1)
        if aside:
            linear(at + "per_layer_input_gate", aside, hidden)
            linear(at + "per_layer_projection", hidden, aside)
            norm(at + "post_per_layer_input_norm", hidden)
        if four and config["enable_moe_block"]:
            experts, width = config["num_experts"], config["moe_intermediate_size"]
            for name in ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2"):
                norm(at + name, hidden)
            linear(at + "router.proj", experts, hidden, gain=12)
            weights[at + "router.scale"] = random.normal(1, 0.3, hidden)
            weights[at + "router.per_expert_scale"] = random.normal(1, 0.3, experts)
            for name, rows, columns in (("gate", width, hidden), ("up", width, hidden), ("down", hidden, width)):
                weights[f"{at}experts.switch_glu.{name}_proj.weight"] = random.normal(
                    0, 1.5 / np.sqrt(columns), (experts, rows, columns))
    return weights


def as_transformers(weights):
    rest = {}
    for name, value in weights.items():
        if ".switch_glu." not in name:
            rest[name] = value
        elif name.endswith("gate_proj.weight"):
            up = weights[name.replace("gate_proj", "up_proj")]
            rest[name.replace("switch_glu.gate_proj.weight", "gate_up_proj")] = np.concatenate([value, up], axis=1)
        elif name.endswith("down_proj.weight"):
            rest[name.replace("switch_glu.down_proj.weight", "down_proj")] = value
    return rest


def build(folder, weights, dtype, double=True):
    kind = torch.float64 if double else torch.float32
    with float64.everything() if double else contextlib.nullcontext():
        config = AutoConfig.from_pretrained(folder)
        config._experts_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(kind).eval()
        state = {name: torch.tensor(value).to(kind) for name, value in as_transformers(weights).items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        if set(missing) - {"lm_head.weight"} or unexpected:
            raise ValueError(f"{folder}: missing {missing}, unexpected {unexpected}")
        model.tie_weights()
        for module in model.modules():
            if hasattr(module, "embed_scale"):
                exact = torch.tensor(module.scalar_embed_scale, dtype=kind)
                module.embed_scale = exact.to(getattr(torch, TORCH[dtype])).to(kind)
    return model


def tapped(model, tokens):
    """Name -> [tokens, width] for every operation of the pass, `logits` before their cap among them."""
    taps, hooks, source = {}, [], sys.modules[type(model).__module__]

    def keep(name, value):
        if name in taps:
            name += "_2"  # as the engine numbers what a layer does twice
        if name in taps:
            raise ValueError(f"{name} was computed three times")
        taps[name] = value.detach().reshape(len(tokens), -1).numpy().copy()

    def output(module, name):
        hooks.append(module.register_forward_hook(lambda _, __, out, name=name: keep(name, out)))

    def entry(module, name):
        hooks.append(module.register_forward_pre_hook(lambda _, args, name=name: keep(name, args[0])))

    body, turned = model.model, []
    taps["embed"] = body.embed_tokens.weight.detach().numpy()[tokens]
    if getattr(body, "hidden_size_per_layer_input", 0):
        taps["embed_tokens_per_layer"] = body.embed_tokens_per_layer.weight.detach().numpy()[tokens]
        output(body.per_layer_model_projection, "per_layer_model_projection")
        output(body.per_layer_projection_norm, "per_layer_projection_norm")
    for i, layer in enumerate(body.layers):
        at, attention, mlp = f"layers.{i}.", layer.self_attn, layer.mlp
        output(layer.input_layernorm, at + "attn_norm")
        for letter in "qkv":
            if getattr(attention, letter + "_proj", None) is not None:
                output(getattr(attention, letter + "_proj"), at + letter)
        if hasattr(attention, "v_norm"):
            output(attention.v_norm, at + "v_norm")
        turned += [at + "q_rope"] + ([at + "k_rope"] if hasattr(attention, "k_proj") else [])
        entry(attention.o_proj, at + "attn")
        output(attention.o_proj, at + "o")
        for name in ("post_attention", "pre_feedforward", "post_feedforward"):
            output(getattr(layer, name + "_layernorm"), f"{at}{name}_layernorm")
        output(mlp.gate_proj, at + "gate")
        output(mlp.up_proj, at + "up")
        entry(mlp.down_proj, at + "glu")
        output(mlp.down_proj, at + "down")
        if getattr(layer, "enable_moe_block", False):
            for name in ("post_feedforward_layernorm_1", "pre_feedforward_layernorm_2", "post_feedforward_layernorm_2"):
                output(getattr(layer, name), at + name)
            hooks.append(layer.router.norm.register_forward_hook(
                lambda _, __, out, at=at, router=layer.router: keep(at + "norm", out * router.scale)))
            output(layer.router.proj, at + "proj")
            hooks.append(layer.router.register_forward_hook(lambda _, __, out, at=at: keep(at + "expert_weights", out[1])))
            output(layer.experts, at + "experts")
        if getattr(layer, "hidden_size_per_layer_input", 0):
            output(layer.per_layer_input_gate, at + "per_layer_input_gate")
            entry(layer.per_layer_projection, at + "glu")
            output(layer.per_layer_projection, at + "per_layer_projection")
            output(layer.post_per_layer_input_norm, at + "post_per_layer_input_norm")
    output(body.norm, "final_norm")
    output(model.lm_head, "logits")
    rotate, names = source.apply_rotary_pos_emb, iter(turned)

    def rotate_and_keep(*arguments, **keywords):
        result = rotate(*arguments, **keywords)
        if isinstance(result, tuple):  # [1, heads, tokens, head_dim] each
            for value in result:
                keep(next(names), value.transpose(1, 2).contiguous())
        else:  # [1, tokens, heads, head_dim]
            keep(next(names), result.contiguous())
        return result

    source.apply_rotary_pos_emb = rotate_and_keep
    try:
        capped = float64.logits(model, tokens)
    finally:
        source.apply_rotary_pos_emb = rotate
        for hook in hooks:
            hook.remove()
    if next(names, None) is not None:
        raise ValueError("fewer rotations than expected")
    if model.config.final_logit_softcapping is not None:
        taps["capped"] = capped
    return taps, capped


def packaged(tensors, config):
    """As repositories with vision have it; defaults of the text model are left out, as Google's files do."""
    text = {key: value for key, value in config.items() if key not in ("quantization", "quantization_config")}
    tensors = {"language_model." + name: value for name, value in tensors.items()}
    for name in ("vision_tower.vision_model.embeddings.patch_embedding.weight", "multi_modal_projector.mm_soft_emb_norm.weight"):
        tensors[name] = np.ones((2, 3), np.float16)
    return tensors, {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text,
                     "vision_config": {"hidden_size": 8}, "quantization": config["quantization"], "mm_tokens_per_image": 256}


def make(name, folder):
    config, dtype, how = CASES[name]
    config = config | {"torch_dtype": TORCH[dtype]}
    seed = zlib.crc32(name.encode())
    stored = {key: store(value, dtype) for key, value in make_weights(config, seed).items()}
    tokens = np.random.default_rng(seed + 1).integers(0, config["vocab_size"], TOKENS).astype(np.int32)
    with tempfile.TemporaryDirectory() as scratch:
        dense = Path(scratch) / "dense"
        write_json(dense / "config.json", config)
        write_safetensors(dense / "model.safetensors", stored, {"format": "pt"})
        tensors, new_config, exact = stored, config, {key: widen(value) for key, value in stored.items()}
        if how is not None:
            tensors, new_config, exact = quantized_by_mlx(dense, config, how)
            write_json(Path(scratch) / "q" / "config.json", new_config)
            write_safetensors(Path(scratch) / "q" / "model.safetensors", tensors)
        theirs = mlx_logits(Path(scratch) / "q" if how is not None else dense, tokens)
        model, single = build(dense, exact, dtype), build(dense, exact, dtype, double=False)
    taps, capped = tapped(model, tokens)
    if "packaged" in name:
        tensors, new_config = packaged(tensors, dict(new_config))
    store_case(folder, new_config, tensors, taps, tokens, "mlx" if how is not None else "pt")

    rows = WINDOW if config["model_type"] == "gemma2" else TOKENS  # mlx-lm ignores Gemma 2's window
    torch32 = errors(float64.logits(single, tokens, double=False), capped)
    mlx = errors(theirs[:rows], capped[:rows])
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name:24} {size // 1024:4} KiB  mlx-lm f32: max {mlx[0]:.1e} ({rows} rows)  transformers f32: max {torch32[0]:.1e}")
    if torch32[0] > 3e-5:
        raise SystemExit(f"{name}: the two implementations do not agree")
    return {"rows": rows, "mlx_max": float(f"{mlx[0]:.1e}"), "transformers_f32_max": float(f"{torch32[0]:.1e}")}


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    make_all(__doc__, "gemma", CASES, make)
