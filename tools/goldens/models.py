"""Makes tests/data/goldens/models/<case>/: tiny random models with every intermediate of a float64 pass.

Each case holds config.json and model.safetensors as Hugging Face writes them, and golden.safetensors with `tokens`, the
tapped intermediates (f32) and `logits` (f64). mlx.json beside the cases tells how far mlx-lm's f32 pass is from them.
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

TOKENS = 12
HIDDEN, INTER, VOCAB, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 64, 96, 128, 2, 8, 2, 16
TORCH = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
WINDOW = 5

COMMON = {"attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": HIDDEN,
          "initializer_range": 0.02, "intermediate_size": INTER, "max_position_embeddings": 512,
          "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": KV_HEADS,
          "rms_norm_eps": 1e-5, "use_cache": True, "vocab_size": VOCAB, "transformers_version": "4.52.4"}
QWEN3 = COMMON | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False,
                  "head_dim": HEAD_DIM, "rms_norm_eps": 1e-6, "max_window_layers": LAYERS, "rope_scaling": None,
                  "rope_theta": 1000000, "sliding_window": None, "use_sliding_window": False,
                  "tie_word_embeddings": False}
# Qwen2.5 files carry a window that use_sliding_window turns off, and no head_dim.
QWEN2 = COMMON | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rms_norm_eps": 1e-6,
                  "max_window_layers": 1, "rope_theta": 1000000.0, "sliding_window": 4, "use_sliding_window": False,
                  "tie_word_embeddings": True}
LLAMA = COMMON | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False,
                  "mlp_bias": False, "head_dim": HEAD_DIM, "pretraining_tp": 1, "rope_scaling": None,
                  "rope_theta": 10000.0, "tie_word_embeddings": False}
# The first Llama 2 and Mistral files have no head_dim, mlp_bias or attention_bias keys at all.
LLAMA2 = {k: v for k, v in LLAMA.items() if k not in ("head_dim", "mlp_bias", "attention_bias")}
MISTRAL = COMMON | {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "head_dim": HEAD_DIM,
                    "rope_theta": 10000.0, "sliding_window": WINDOW, "tie_word_embeddings": False}
SMOLLM2 = LLAMA2 | {"attention_bias": False, "mlp_bias": False, "is_llama_config": True, "rope_interleaved": False,
                    "rope_theta": 100000, "tie_word_embeddings": True, "pad_token_id": 2}
SMOLLM3 = LLAMA2 | {"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "attention_bias": False, "mlp_bias": False,
                    "no_rope_layer_interval": 4, "no_rope_layers": [1, 0], "rope_scaling": None, "rope_theta": 5000000.0,
                    "sliding_window": None, "use_sliding_window": False, "tie_word_embeddings": True, "max_window_layers": 28,
                    "pad_token_id": 4}
LLAMA3_ROPE = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
               "original_max_position_embeddings": 64, "rope_type": "llama3"}

CASES = {  # name -> config, stored dtype of the weights
    "qwen3": (QWEN3, "bf16"),
    "qwen3_tied_yarn": (QWEN3 | {"tie_word_embeddings": True, "max_position_embeddings": 16384, "rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}}, "bf16"),
    "qwen3_v5": (QWEN3, "f16"),
    "qwen2": (QWEN2, "bf16"),
    "llama": (LLAMA2, "f16"),
    "llama_biased": (LLAMA | {"attention_bias": True, "mlp_bias": True}, "bf16"),
    "llama_llama3": (LLAMA | {"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE, "eos_token_id": [2, 3, 4]}, "bf16"),
    "llama_llama3_v5": (LLAMA | {"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE}, "bf16"),
    "llama_linear": (LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.5}}, "f16"),
    "llama_yarn": (LLAMA | {"max_position_embeddings": 256, "rope_scaling": {
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}, "bf16"),
    "mistral": (MISTRAL, "bf16"),
    "smollm2": (SMOLLM2, "bf16"),
    "smollm3": (SMOLLM3, "bf16"),
    "llama_f32": (LLAMA | {"num_hidden_layers": 1}, "f32"),
}


def v5_style(config):
    """Newer files: `dtype`, and everything about rope inside `rope_parameters`."""
    config = dict(config)
    rope = config.pop("rope_scaling") or {"rope_type": "default"}
    config["rope_parameters"] = rope | {"rope_theta": config.pop("rope_theta")}
    config["dtype"] = config.pop("torch_dtype")
    config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
    if config["model_type"] == "llama":
        del config["layer_types"]
    config["transformers_version"] = "5.0.0"
    return config


def make_weights(config, seed):
    """Random, but of sizes that make every operation matter: sharp attention, uneven norms, biases that show."""
    random = np.random.default_rng(seed)
    hidden, inter, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    weights = {"model.embed_tokens.weight": random.normal(0, 1, (vocab, hidden)),
               "model.norm.weight": random.normal(1, 0.3, hidden)}

    def linear(name, rows, columns, bias=False):
        weights[name + ".weight"] = random.normal(0, 1.5 / np.sqrt(columns), (rows, columns))
        if bias:
            weights[name + ".bias"] = random.normal(0, 0.5, rows)

    if not config["tie_word_embeddings"]:
        linear("lm_head", vocab, hidden)
    qkv_bias = config["model_type"] == "qwen2" or config.get("attention_bias", False)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            linear(f"{at}self_attn.{name}_proj", rows, hidden, qkv_bias)
        linear(at + "self_attn.o_proj", hidden, q, config.get("attention_bias", False))
        if config["model_type"] == "qwen3":
            for name in "qk":
                weights[f"{at}self_attn.{name}_norm.weight"] = random.normal(1, 0.3, head_dim)
        for name, rows, columns in (("gate", inter, hidden), ("up", inter, hidden), ("down", hidden, inter)):
            linear(f"{at}mlp.{name}_proj", rows, columns, config.get("mlp_bias", False))
        for name in ("input", "post_attention"):
            weights[f"{at}{name}_layernorm.weight"] = random.normal(1, 0.3, hidden)
    return weights


def make(name, folder):
    config, dtype = CASES[name]
    config = config | {"torch_dtype": TORCH[dtype]}
    mlx_config = config
    if name.endswith("_v5"):
        config = v5_style(config)
    seed = zlib.crc32(name.encode())
    stored = {key: store(value, dtype) for key, value in make_weights(config, seed).items()}
    weights = {key: widen(value) for key, value in stored.items()}
    write_json(folder / "config.json", dict(sorted(config.items())))
    write_safetensors(folder / "model.safetensors", stored, {"format": "pt"})
    tokens = np.random.default_rng(seed + 1).integers(0, VOCAB, TOKENS).astype(np.int32)
    taps = float64.tapped(float64.build(folder, weights), tokens)
    golden = {key: value if key == "logits" else value.astype(np.float32) for key, value in taps.items()}
    write_safetensors(folder / "golden.safetensors", golden | {"tokens": tokens})

    single = float64.logits(float64.build(folder, weights, double=False), tokens, double=False)
    rows = WINDOW if config["model_type"] == "mistral" else TOKENS  # mlx-lm ignores Mistral's window
    with tempfile.TemporaryDirectory() as scratch:
        if config["model_type"] == "llama" and "rope_parameters" in config:
            config = mlx_config  # mlx-lm's llama class does not read rope_parameters: give it the older spelling
        write_json(Path(scratch) / "config.json", config)
        write_safetensors(Path(scratch) / "model.safetensors", stored)
        theirs = mlx_logits(scratch, tokens)
    mlx, torch32 = errors(theirs[:rows], taps["logits"][:rows]), errors(single, taps["logits"])
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name:18} {size // 1024:4} KiB  mlx-lm f32: max {mlx[0]:.1e} rms {mlx[1]:.1e} ({rows} rows)  "
          f"transformers f32: max {torch32[0]:.1e} rms {torch32[1]:.1e}")
    if mlx[0] > 2e-5 or torch32[0] > 2e-5:
        raise SystemExit(f"{name}: the two implementations do not agree")
    return {"rows": rows, "mlx_max": float(f"{mlx[0]:.1e}"), "mlx_rms": float(f"{mlx[1]:.1e}"),
            "transformers_f32_max": float(f"{torch32[0]:.1e}"), "transformers_f32_rms": float(f"{torch32[1]:.1e}")}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=GOLDENS / "models")
    arguments = parser.parse_args()
    write_json(arguments.out / "mlx.json", {name: make(name, arguments.out / name) for name in CASES})
    return 0


if __name__ == "__main__":
    sys.exit(main())
