"""Makes tests/data/goldens/dense/<case>/: tiny random models of families that are Llama but for a few numbers or for how matrices are
stored, with the logits of transformers in float64, held against mlx-lm where it computes the same.
"""
import argparse
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

import float64
from common import GOLDENS, errors, store, widen, write_json, write_safetensors
from mlx_logits import mlx_logits
from models import COMMON, HEADS, HIDDEN, INTER, KV_HEADS, VOCAB

TOKENS, DIM = 12, HIDDEN // HEADS
GRANITE = COMMON | {"architectures": ["GraniteForCausalLM"], "model_type": "granite", "attention_bias": False, "mlp_bias": False,
                    "attention_multiplier": 0.25, "embedding_multiplier": 6.0, "logits_scaling": 4.0, "residual_multiplier": 0.35,
                    "rope_theta": 10000.0, "rope_scaling": None, "tie_word_embeddings": True}
# As Granite 4: the config of a hybrid, all of whose layers are attention.
GRANITE4 = GRANITE | {"architectures": ["GraniteMoeHybridForCausalLM"], "model_type": "granitemoehybrid", "layer_types": ["attention"] * 2,
                      "num_local_experts": 0, "num_experts_per_tok": 0, "position_embedding_type": "rope", "shared_intermediate_size": INTER,
                      "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_expand": 2, "mamba_d_state": 16, "mamba_n_groups": 1}
PHI3 = COMMON | {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "embd_pdrop": 0.0, "resid_pdrop": 0.0, "pad_token_id": 3,
                 "original_max_position_embeddings": 512, "rope_theta": 10000.0, "rope_scaling": None, "sliding_window": None,
                 "tie_word_embeddings": False}
# As Phi-4-mini: three quarters of a head rotate, by the short factors as long as a text is below the original context.
PHI4 = PHI3 | {"max_position_embeddings": 512, "original_max_position_embeddings": 64, "partial_rotary_factor": 0.75, "head_dim": 16,
               "hidden_size": 64, "num_attention_heads": 4, "sliding_window": 5, "tie_word_embeddings": True,
               "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.25, 1.5, 1.75, 2.0, 2.5],
                                "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]}}
# Longer than the original context: by the long factors, which mlx-lm always takes.
PHI4_BEYOND = PHI4 | {"original_max_position_embeddings": 72, "sliding_window": None}
OLMO2 = COMMON | {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "attention_bias": False, "pad_token_id": 3,
                  "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 500000.0, "tie_word_embeddings": False}
# As OLMo 3: layers with a window rotate plainly, those without by yarn.
OLMO3 = OLMO2 | {"architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", "attention_bias": True, "sliding_window": 5,
                 "layer_types": ["sliding_attention", "full_attention"],
                 "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 32.0,
                                  "beta_slow": 1.0, "attention_factor": 1.2079441541679836}}
# As Ministral 3, with several of its steps in a few tokens.
MINISTRAL3 = COMMON | {"architectures": ["Ministral3ForCausalLM"], "model_type": "ministral3", "head_dim": 16, "max_position_embeddings": 80,
                       "rope_parameters": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.7, "mscale": 1.0,
                                           "mscale_all_dim": 1.0, "original_max_position_embeddings": 5, "rope_theta": 1000000.0,
                                           "rope_type": "yarn", "type": "yarn"},
                       "sliding_window": None, "tie_word_embeddings": True}
# As Mistral Small 3.1: Mistral, inside a model that sees.
MISTRAL3 = COMMON | {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "head_dim": 16, "rope_theta": 1000000000.0,
                     "sliding_window": None, "tie_word_embeddings": False}
PACKAGED = ("mistral3", "ministral3")
# The second: mlx-lm computes the same.
CASES = {"ministral3": (MINISTRAL3, True), "mistral3": (MISTRAL3, True), "granite": (GRANITE, True), "granite4": (GRANITE4, True), "phi3": (PHI3, True), "phi4": (PHI4, False), "phi4_beyond": (PHI4_BEYOND, True),
         "olmo2": (OLMO2, True), "olmo3": (OLMO3, True)}


def make_weights(config, seed):
    random = np.random.default_rng(seed)
    dim = config.get("head_dim", DIM)
    q, kv = config["num_attention_heads"] * dim, KV_HEADS * dim
    weights = {"model.embed_tokens.weight": random.normal(0, 1, (VOCAB, HIDDEN))}

    bias = config.get("attention_bias", False)
    olmo = config["model_type"].startswith("olmo")

    def linear(name, rows, columns):
        weights[name + ".weight"] = random.normal(0, 1.5 / np.sqrt(columns), (rows, columns))
        if bias and ".self_attn." in name:
            weights[name + ".bias"] = random.normal(0, 0.5, rows)

    def norm(name, size):
        weights[name + ".weight"] = random.normal(1, 0.3, size)

    norm("model.norm", HIDDEN)
    if not config["tie_word_embeddings"]:
        linear("lm_head", VOCAB, HIDDEN)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        if config["model_type"] == "phi3":
            linear(at + "self_attn.qkv_proj", q + 2 * kv, HIDDEN)
            linear(at + "mlp.gate_up_proj", 2 * INTER, HIDDEN)
        elif config["model_type"] == "granitemoehybrid":
            for name, rows in (("q", q), ("k", kv), ("v", kv)):
                linear(f"{at}self_attn.{name}_proj", rows, HIDDEN)
            linear(at + "shared_mlp.input_linear", 2 * INTER, HIDDEN)
        else:
            for name, rows in (("q", q), ("k", kv), ("v", kv)):
                linear(f"{at}self_attn.{name}_proj", rows, HIDDEN)
            linear(at + "mlp.gate_proj", INTER, HIDDEN)
            linear(at + "mlp.up_proj", INTER, HIDDEN)
        linear(at + "self_attn.o_proj", HIDDEN, q)
        linear(at + ("shared_mlp.output_linear" if config["model_type"] == "granitemoehybrid" else "mlp.down_proj"), HIDDEN, INTER)
        for name in ("post_attention", "post_feedforward") if olmo else ("input", "post_attention"):
            norm(f"{at}{name}_layernorm", HIDDEN)
        if olmo:
            norm(at + "self_attn.q_norm", q)
            norm(at + "self_attn.k_norm", kv)
    return weights


def make(name, folder):
    config, same = CASES[name]
    config = config | {"torch_dtype": "bfloat16"}
    seed = zlib.crc32(name.encode())
    stored = {key: store(value, "bf16") for key, value in make_weights(config, seed).items()}
    weights = {key: widen(value) for key, value in stored.items()}
    tokens = np.random.default_rng(seed + 1).integers(0, VOCAB, 80 if name == "phi4_beyond" else TOKENS).astype(np.int32)
    with tempfile.TemporaryDirectory() as scratch:
        write_json(Path(scratch) / "config.json", config)
        logits = float64.logits(float64.build(scratch, weights), tokens)
        single = float64.logits(float64.build(scratch, weights, double=False), tokens, double=False)
    if name in PACKAGED:
        stored = {"language_model." + key: value for key, value in stored.items()} | {
            "multi_modal_projector.linear_1.weight": stored["model.norm.weight"], "vision_tower.ln_pre.weight": stored["model.norm.weight"]}
        config = {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "text_config": config,
                  "vision_config": {"model_type": "pixtral"}}
    write_json(folder / "config.json", dict(sorted(config.items())))
    write_safetensors(folder / "model.safetensors", stored, {"format": "pt"})
    scaling = config.get("logits_scaling")  # Granite's logits before they are divided by it, and after
    shown = {"logits": logits * scaling, "scaled_logits": logits} if scaling else {"logits": logits}
    write_safetensors(folder / "golden.safetensors", {"tokens": tokens} | shown)
    torch32, figures = errors(single, logits), {}
    if same:
        with tempfile.TemporaryDirectory() as scratch:
            write_json(Path(scratch) / "config.json", config)
            write_safetensors(Path(scratch) / "model.safetensors", stored)
            mlx = errors(mlx_logits(scratch, tokens), logits)
        figures = {"mlx_max": float(f"{mlx[0]:.1e}"), "mlx_rms": float(f"{mlx[1]:.1e}")}
        if mlx[0] > 2e-5:
            raise SystemExit(f"{name}: mlx-lm is {mlx[0]:.1e} away")
    print(f"{name:10} transformers f32: max {torch32[0]:.1e} rms {torch32[1]:.1e}  {figures}")
    if torch32[0] > 2e-5:
        raise SystemExit(f"{name}: transformers' own f32 is {torch32[0]:.1e} away")
    return figures | {"transformers_f32_max": float(f"{torch32[0]:.1e}"), "transformers_f32_rms": float(f"{torch32[1]:.1e}")}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=GOLDENS / "dense")
    arguments = parser.parse_args()
    write_json(arguments.out / "mlx.json", {name: make(name, arguments.out / name) for name in CASES})
    return 0


if __name__ == "__main__":
    sys.exit(main())
