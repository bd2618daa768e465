"""Makes tests/data/goldens/lfm2/<case>/: tiny random LFM2s, as Hugging Face writes them and as mlx-lm makes them, with the logits of
transformers in float64. The long case is for tests that cut it.
"""
import tempfile
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np

import float64
from common import agreement, make_all, store, store_case, widen, write_json, write_safetensors
from experts import quantized_by_mlx
from mlx_logits import mlx_logits

TOKENS, LONG = 12, 150
HIDDEN, HEADS, KV_HEADS, DIM, VOCAB = 64, 4, 2, 16, 64
COMMON = {"architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", "bos_token_id": 1, "eos_token_id": 7, "pad_token_id": 0,
          "conv_bias": False, "hidden_size": HIDDEN, "initializer_range": 0.02, "max_position_embeddings": 512, "norm_eps": 1e-5,
          "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": VOCAB}
# As the first files: the width of MLPs is two thirds of what is said, rounded up; 96 here.
OLD = COMMON | {"block_auto_adjust_ff_dim": True, "block_dim": HIDDEN, "block_ff_dim": 120, "block_ffn_dim_multiplier": 1.0,
                "block_multiple_of": 32, "conv_L_cache": 3, "conv_dim": HIDDEN, "conv_dim_out": HIDDEN, "full_attn_idxs": [1],
                "num_heads": HEADS, "num_hidden_layers": 3, "rope_theta": 1000000.0, "theta": 1000000.0, "use_pos_enc": True}
NEW = COMMON | {"block_auto_adjust_ff_dim": False, "block_dim": HIDDEN, "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 32,
                "conv_L_cache": 4, "intermediate_size": 96, "layer_types": ["conv", "full_attention"], "num_hidden_layers": 2,
                "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}, "tie_embedding": True}
# name -> config; mlx-lm's quantization, or None
CASES = {"lfm2": (OLD, None), "lfm2_4bit": (OLD, {"bits": 4, "group_size": 32}), "lfm2_long": (NEW, None)}


def make_weights(config, seed):
    random = np.random.default_rng(seed)
    weights = {"model.embed_tokens.weight": random.normal(0, 1, (VOCAB, HIDDEN))}

    def norm(name, size):
        weights[name + ".weight"] = random.normal(1, 0.3, size)

    def linear(name, rows, columns):
        weights[name + ".weight"] = random.normal(0, 1.5 / np.sqrt(columns), (rows, columns))

    attending = config.get("full_attn_idxs", [1])
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        norm(at + "operator_norm", HIDDEN)
        norm(at + "ffn_norm", HIDDEN)
        if i in attending:
            for name, rows in (("q", HEADS * DIM), ("k", KV_HEADS * DIM), ("v", KV_HEADS * DIM)):
                linear(f"{at}self_attn.{name}_proj", rows, HIDDEN)
            linear(at + "self_attn.out_proj", HIDDEN, HEADS * DIM)
            for name in "qk":
                norm(f"{at}self_attn.{name}_layernorm", DIM)
        else:
            linear(at + "conv.in_proj", 3 * HIDDEN, HIDDEN)
            weights[at + "conv.conv.weight"] = random.normal(0, 0.6, (HIDDEN, 1, config["conv_L_cache"]))
            linear(at + "conv.out_proj", HIDDEN, HIDDEN)
        for name, rows, columns in (("w1", 96, HIDDEN), ("w3", 96, HIDDEN), ("w2", HIDDEN, 96)):
            linear(f"{at}feed_forward.{name}", rows, columns)
    norm("model.embedding_norm", HIDDEN)
    return weights


def make(name, folder):
    config, how = CASES[name]
    seed = zlib.crc32(name.encode())
    tensors = {key: store(value, "bf16") for key, value in make_weights(config, seed).items()}
    exact = {key: widen(value) for key, value in tensors.items()}
    tokens = np.random.default_rng(seed + 1).integers(0, VOCAB, LONG if "long" in name else TOKENS).astype(np.int32)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        write_json(scratch / "config.json", config)
        write_safetensors(scratch / "model.safetensors", tensors, {"format": "pt"})
        written = config
        if how is not None:
            tensors, written, exact = quantized_by_mlx(scratch, config, how)
            exact = {key: np.moveaxis(value, 2, 1) if key.endswith("conv.conv.weight") else value for key, value in exact.items()}
            write_json(scratch / "q" / "config.json", written)
            write_safetensors(scratch / "q" / "model.safetensors", tensors)
        theirs = mlx_logits(scratch / "q" if how is not None else scratch, tokens)
        logits = float64.logits(float64.build(scratch, exact), tokens)
        single = float64.logits(float64.build(scratch, exact, double=False), tokens, double=False)
    store_case(folder, written, tensors, {"logits": logits}, tokens, "mlx" if how is not None else "pt")
    return agreement(name, folder, logits, single, theirs, 5e-5)


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    make_all(__doc__, "lfm2", CASES, make)
