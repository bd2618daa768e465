"""Makes tests/data/goldens/mla/<case>/: tiny random models with latent attention, with intermediates of a float64 pass.

Dense cases lie as Hugging Face writes them, `kv_b_proj` whole and a module for each expert; quantized ones are what mlx-lm makes
of such a checkpoint, or what it made before it split `kv_b_proj`. Cases are as those of experts.py otherwise.
"""
import contextlib
import tempfile
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch

import float64
from common import dequantize64, errors, make_all, store, widen, write_json, write_safetensors
from experts import quantized_by_mlx
from mlx_logits import mlx_logits
from models import TORCH
from quant import from_mx

TOKENS = 12
YARN = {"beta_fast": 32, "beta_slow": 1, "factor": 4.0, "mscale": 0.8, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 64, "type": "yarn"}
COMMON = {"attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 1, "first_k_dense_replace": 1,
          "hidden_act": "silu", "hidden_size": 48, "initializer_range": 0.02, "intermediate_size": 96, "kv_lora_rank": 32,
          "max_position_embeddings": 256, "moe_intermediate_size": 32, "moe_layer_freq": 1, "n_routed_experts": 8,
          "n_shared_experts": 1, "num_attention_heads": 4, "num_experts_per_tok": 3, "num_hidden_layers": 2,
          "num_key_value_heads": 4, "q_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 8, "rms_norm_eps": 1e-6,
          "rope_theta": 10000.0, "tie_word_embeddings": False, "use_cache": True, "v_head_dim": 16, "vocab_size": 64}
V3 = COMMON | {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "n_group": 4, "norm_topk_prob": True,
               "num_nextn_predict_layers": 1, "rope_scaling": YARN, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
               "topk_group": 2, "topk_method": "noaux_tc"}
V2 = COMMON | {"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "n_group": 4, "n_shared_experts": 2,
               "norm_topk_prob": False, "rope_scaling": YARN, "routed_scaling_factor": 16.0, "scoring_func": "softmax",
               "topk_group": 2, "topk_method": "group_limited_greedy"}
V2_LITE = V2 | {"n_group": 1, "topk_group": 1, "topk_method": "greedy", "q_lora_rank": None, "routed_scaling_factor": 1.0,
                "rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}}
GLM = COMMON | {"architectures": ["Glm4MoeLiteForCausalLM"], "model_type": "glm4_moe_lite", "n_group": 1, "norm_topk_prob": True,
                "num_nextn_predict_layers": 1, "partial_rotary_factor": 1.0, "rms_norm_eps": 1e-5, "rope_scaling": None,
                "rope_theta": 1000000, "routed_scaling_factor": 1.8, "topk_group": 1, "topk_method": "noaux_tc"}

WIDE = {"hidden_size": 64}  # whole groups

# name -> config; dtype of the dense weights; mlx-lm's quantization, "kv_b" for a quantized kv_b_proj alone, or None
CASES = {
    "deepseek_v3": (V3, "bf16", None),
    "deepseek_v3_4bit": (V3 | WIDE | {"n_shared_experts": None}, "bf16", {"bits": 4, "group_size": 32}),
    "deepseek_v2": (V2 | {"attention_bias": True}, "bf16", None),
    "deepseek_v2_4bit": (V2_LITE | WIDE, "f16", {"bits": 4, "group_size": 32}),
    "glm4_moe_lite": (GLM, "bf16", None),
    "glm4_moe_lite_8bit": (GLM | WIDE, "bf16", {"bits": 8, "group_size": 32}),
    "glm4_moe_lite_kv_b_4bit": (GLM, "f16", "kv_b"),
}
# mlx-lm quantizes the halves of kv_b_proj again.
NOT_MLX = {"glm4_moe_lite_kv_b_4bit"}


def make_weights(config, seed):
    """Under Hugging Face's names. Routers are sharp: no rounding changes a choice."""
    random = np.random.default_rng(seed)
    hidden, vocab, heads = config["hidden_size"], config["vocab_size"], config["num_attention_heads"]
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    rank, q_rank, bias = config["kv_lora_rank"], config["q_lora_rank"], config["attention_bias"]
    weights = {"model.embed_tokens.weight": random.normal(0, 1, (vocab, hidden)),
               "model.norm.weight": random.normal(1, 0.3, hidden)}

    def linear(name, rows, columns, with_bias=False, gain=1.5):
        weights[name + ".weight"] = random.normal(0, gain / np.sqrt(columns), (rows, columns))
        if with_bias:
            weights[name + ".bias"] = random.normal(0, 0.5, rows)

    def norm(name, size):
        weights[name + ".weight"] = random.normal(1, 0.3, size)

    def mlp(at, inner):
        linear(at + "gate_proj", inner, hidden)
        linear(at + "up_proj", inner, hidden)
        linear(at + "down_proj", hidden, inner)

    linear("lm_head", vocab, hidden)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        norm(at + "input_layernorm", hidden)
        norm(at + "post_attention_layernorm", hidden)
        attention = at + "self_attn."
        if q_rank is None:
            linear(attention + "q_proj", heads * (nope + rope), hidden)
        else:
            linear(attention + "q_a_proj", q_rank, hidden, bias)
            norm(attention + "q_a_layernorm", q_rank)
            linear(attention + "q_b_proj", heads * (nope + rope), q_rank)
        linear(attention + "kv_a_proj_with_mqa", rank + rope, hidden, bias)
        norm(attention + "kv_a_layernorm", rank)
        linear(attention + "kv_b_proj", heads * (nope + value), rank)
        linear(attention + "o_proj", hidden, heads * value, bias)
        if i < config["first_k_dense_replace"]:
            mlp(at + "mlp.", config["intermediate_size"])
            continue
        linear(at + "mlp.gate", config["n_routed_experts"], hidden, gain=3)
        if "scoring_func" not in config or config["scoring_func"] == "sigmoid":
            weights[at + "mlp.gate.e_score_correction_bias"] = random.normal(0.3, 0.1, config["n_routed_experts"])
        for e in range(config["n_routed_experts"]):
            mlp(f"{at}mlp.experts.{e}.", config["moe_intermediate_size"])
        if config["n_shared_experts"]:
            mlp(at + "mlp.shared_experts.", config["moe_intermediate_size"] * config["n_shared_experts"])
    return weights


def whole(weights, config):
    """mlx-lm's two halves as Hugging Face's kv_b_proj."""
    result = {}
    for name, value in weights.items():
        if name.endswith(".embed_q.weight"):
            values = weights[name.replace("embed_q", "unembed_out")]
            result[name.replace("embed_q", "kv_b_proj")] = np.concatenate(
                [np.swapaxes(value, 1, 2), values], axis=1).reshape(-1, config["kv_lora_rank"])
        elif not name.endswith(".unembed_out.weight"):
            result[name] = value
    return result


def with_quantized_kv_b(stored, exact):
    for name in [name for name in stored if name.endswith(".kv_b_proj.weight")]:
        path = name.removesuffix(".weight")
        parts = [from_mx(part) for part in mx.quantize(mx.array(widen(stored[name], np.float32)).astype(mx.float16), 32, 4)]
        stored[name], stored[path + ".scales"], stored[path + ".biases"] = parts
        exact[name] = dequantize64(*parts, 4, 32)


@contextlib.contextmanager
def wide_floats():
    """DeepSeek-V2's rotation asks for float(), which float64.py does not see."""
    kept = torch.Tensor.float
    torch.Tensor.float = lambda self: self.double() if self.dtype == torch.float64 else kept(self)
    try:
        yield
    finally:
        torch.Tensor.float = kept


def tapped(model, tokens):
    taps, hooks = {}, []

    def keep(name, value):
        taps[name] = value.detach().reshape(len(tokens), -1).numpy().copy()

    def output(module, name):
        hooks.append(module.register_forward_hook(lambda _, __, out, name=name: keep(name, out)))

    def entry(module, name):
        hooks.append(module.register_forward_pre_hook(lambda _, args, name=name: keep(name, args[0])))

    output(model.model.embed_tokens, "embed")
    for i, layer in enumerate(model.model.layers):
        at, attention, mlp = f"layers.{i}.", layer.self_attn, layer.mlp
        output(layer.input_layernorm, at + "attn_norm")
        if attention.q_lora_rank is None:
            output(attention.q_proj, at + "q")
        else:
            output(attention.q_a_proj, at + "q_a")
            output(attention.q_a_layernorm, at + "q_a_layernorm")
            output(attention.q_b_proj, at + "q_b")
        output(attention.kv_a_proj_with_mqa, at + "kv_a_proj_with_mqa")
        entry(attention.o_proj, at + "unembed_out")
        output(attention.o_proj, at + "o")
        output(layer.post_attention_layernorm, at + "mlp_norm")
        if hasattr(mlp, "experts"):
            hooks.append(mlp.gate.register_forward_hook(lambda _, __, out, at=at: keep(at + "router", out[0])))
            output(mlp.experts, at + "experts")
            mlp = mlp.shared_experts
        if mlp.gate_proj.out_features == 0:
            continue
        output(mlp.gate_proj, at + "gate")
        output(mlp.up_proj, at + "up")
        entry(mlp.down_proj, at + "glu")
        output(mlp.down_proj, at + "down")
    output(model.model.norm, "final_norm")
    with wide_floats():
        taps["logits"] = float64.logits(model, tokens)
    for hook in hooks:
        hook.remove()
    return taps


def make(name, folder):
    config, dtype, how = CASES[name]
    config = config | {"torch_dtype": TORCH[dtype]}
    seed = zlib.crc32(name.encode())
    stored = {key: store(value, "f32" if key.endswith("correction_bias") else dtype)
              for key, value in make_weights(config, seed).items()}
    tokens = np.random.default_rng(seed + 1).integers(0, config["vocab_size"], TOKENS).astype(np.int32)
    with tempfile.TemporaryDirectory() as scratch:
        dense, quantized, theirs = Path(scratch) / "dense", Path(scratch) / "q", None
        write_json(dense / "config.json", config)
        write_safetensors(dense / "model.safetensors", stored, {"format": "pt"})
        tensors, new_config, exact = dict(stored), config, {key: widen(value) for key, value in stored.items()}
        if how == "kv_b":
            with_quantized_kv_b(tensors, exact)
            new_config = config | {"quantization": {"group_size": 32, "bits": 4}}
        elif how is not None:
            tensors, new_config, exact = quantized_by_mlx(dense, config, how)
            write_json(quantized / "config.json", new_config)
            write_safetensors(quantized / "model.safetensors", tensors)
        if name not in NOT_MLX:
            theirs = mlx_logits(quantized if how is not None else dense, tokens)
        theirs_config = config | ({} if config["n_shared_experts"] else {"n_shared_experts": 0})
        write_json(dense / "config.json", theirs_config)
        model, single = (float64.build(dense, with_empty(whole(exact, config), theirs_config), double=double)
                         for double in (True, False))
    if config.get("num_nextn_predict_layers") and how is None:  # as the models' own files have it
        tensors[f"model.layers.{config['num_hidden_layers']}.eh_proj.weight"] = store(np.ones((2, 4)), dtype)
    taps = tapped(model, tokens)
    write_json(folder / "config.json", dict(sorted(new_config.items())))
    write_safetensors(folder / "model.safetensors", tensors, {"format": "mlx" if isinstance(how, dict) else "pt"})
    golden = {key: value if key == "logits" else value.astype(np.float32) for key, value in taps.items()}
    write_safetensors(folder / "golden.safetensors", golden | {"tokens": tokens})

    torch32 = errors(float64.logits(single, tokens, double=False), taps["logits"])
    mlx = errors(theirs, taps["logits"]) if theirs is not None else (0.0, 0.0)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name:26} {size // 1024:4} KiB  mlx-lm f32: {f'max {mlx[0]:.1e}' if theirs is not None else 'not asked':12} "
          f"transformers f32: max {torch32[0]:.1e}")
    # GLM's latent norms have another eps in mlx-lm.
    if mlx[0] > (3e-4 if config["model_type"] == "glm4_moe_lite" else 3e-5) or torch32[0] > 3e-5:
        raise SystemExit(f"{name}: the two implementations do not agree")
    return {"mlx_max": float(f"{mlx[0]:.1e}") if theirs is not None else None,
            "transformers_f32_max": float(f"{torch32[0]:.1e}")}


def with_empty(weights, config):
    """transformers always has shared experts; those of no width add nothing."""
    if config["n_shared_experts"]:
        return weights
    hidden = config["hidden_size"]
    for i in range(config["first_k_dense_replace"], config["num_hidden_layers"]):
        for name, shape in (("gate_proj", (0, hidden)), ("up_proj", (0, hidden)), ("down_proj", (hidden, 0))):
            weights[f"model.layers.{i}.mlp.shared_experts.{name}.weight"] = np.zeros(shape)
    return weights


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    make_all(__doc__, "mla", CASES, make)
