"""Makes tests/data/goldens/adapters/<case>/: adapter directories of both formats, with the logits they must give.

PEFT cases are made and saved by peft itself, with random factors; mlx-lm cases are written as its trainer writes them.
golden.safetensors holds `tokens` and the float64 `logits` of transformers over dense weights W + scale·BA, which this
script computes from the files with a reader of its own. The same files are then loaded by peft (float64) and by mlx-lm
(float32), and where either disagrees the script fails. cases.json names each case's base and its twin in the other format.
"""
import argparse
import contextlib
import json
import math
import re
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_map
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model
from peft import LoraConfig, PeftModel, get_peft_model

import float64
import gemma
import gpt_oss
import mla
from common import GOLDENS, dequantize64, errors, read_safetensors, widen, write_json, write_safetensors

TOKENS = 8
QWEN3, QWEN2, QUANTIZED = "models/qwen3", "models/qwen2", "widths/b4_g64_tied_bf16"
QWEN3_MOE, QWEN3_MOE_4BIT, MIXTRAL = "experts/qwen3_moe", "experts/qwen3_moe_4bit", "experts/mixtral"
GEMMA4_MOE = "gemma/gemma4_moe_4bit"
DEEPSEEK, DEEPSEEK_4BIT, GLM_8BIT = "mla/deepseek_v3", "mla/deepseek_v2_4bit", "mla/glm4_moe_lite_8bit"  # GLM's file has two stacks for kv_b_proj
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = ATTENTION + ["gate_proj", "up_proj", "down_proj"]

PEFT_CASES = {  # name -> base, LoraConfig's arguments
    "peft_lora": (QWEN3, dict(r=4, lora_alpha=10, target_modules=ALL)),
    "peft_rslora": (QWEN3, dict(r=3, lora_alpha=3, use_rslora=True, target_modules=["q_proj", "down_proj"])),
    "peft_patterns": (QWEN3, dict(r=2, lora_alpha=4, target_modules=ATTENTION,
                                  rank_pattern={"layers.1.self_attn.q_proj": 5, r".*\.0\..*k_proj": 3, "v_proj": 1},
                                  alpha_pattern={"o_proj": 1, "model.layers.1.self_attn.q_proj": 7})),
    "peft_regex": (QWEN3, dict(r=2, lora_alpha=3,
                               target_modules=r".*layers\.[0-9]+\.(?:self_attn\.(q|v)_proj|mlp\.down_proj)")),
    "peft_layers": (QWEN3, dict(r=2, lora_alpha=5, target_modules=["q_proj", "up_proj"], layers_to_transform=[1],
                                layers_pattern="layers")),
    "peft_exclude": (QWEN3, dict(r=2, lora_alpha=5, target_modules="all-linear", exclude_modules=["mlp.up_proj", "k_proj"])),
    "peft_dora": (QWEN3, dict(r=3, lora_alpha=3, use_dora=True, target_modules=["q_proj", "o_proj", "down_proj"])),
    "peft_dora_biased": (QWEN2, dict(r=2, lora_alpha=2, use_dora=True, target_modules=["k_proj"])),
    "peft_embedding": (QWEN3, dict(r=3, lora_alpha=3, target_modules=["q_proj", "embed_tokens", "lm_head"])),
    "peft_tied_embedding": (QWEN2, dict(r=3, lora_alpha=3, target_modules=["v_proj", "embed_tokens"])),
    "peft_dora_embedding": (QWEN3, dict(r=2, lora_alpha=2, use_dora=True, target_modules=["embed_tokens"])),
    "peft_lora_bias": (QWEN3, dict(r=2, lora_alpha=6, lora_bias=True, target_modules=["q_proj", "gate_proj"])),
    "peft_bias_all": (QWEN2, dict(r=2, lora_alpha=2, bias="all", target_modules=["q_proj"])),
    "peft_bias_lora_only": (QWEN2, dict(r=2, lora_alpha=2, bias="lora_only", target_modules=["q_proj"])),
    "peft_saved": (QWEN3, dict(r=2, lora_alpha=2, target_modules=["v_proj"], modules_to_save=["lm_head", "norm"])),
    "peft_saved_tied": (QWEN2, dict(r=2, lora_alpha=2, target_modules=["v_proj"], modules_to_save=["embed_tokens"])),
    "peft_fan_in": (QWEN3, dict(r=2, lora_alpha=2, fan_in_fan_out=True, target_modules=["up_proj"])),
    "peft_parameters": (QWEN3_MOE, dict(r=3, lora_alpha=6, target_modules=["q_proj"], rank_pattern={r".*\.gate_up_proj": 2},
                                        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])),
    "peft_one_parameter": (QWEN3_MOE, dict(r=2, lora_alpha=2, use_rslora=True, target_modules=["v_proj"],
                                           target_parameters=["mlp.experts.down_proj"])),
    "peft_mixtral_parameters": (MIXTRAL, dict(r=2, lora_alpha=3, target_modules=["o_proj"],
                                              target_parameters=["experts.gate_up_proj"])),
    "peft_gemma4_parameters": (GEMMA4_MOE, dict(r=2, lora_alpha=4, target_modules=["q_proj"],
                                                target_parameters=["experts.gate_up_proj", "experts.down_proj"])),
    "peft_latents": (DEEPSEEK, dict(r=3, lora_alpha=6, target_modules=["kv_b_proj", "q_b_proj"])),
    "peft_latents_stacked": (GLM_8BIT, dict(r=2, lora_alpha=3, use_rslora=True, target_modules=["kv_b_proj", "kv_a_proj_with_mqa"],
                                            rank_pattern={"layers.1.self_attn.kv_b_proj": 4})),
}
# As peft saves models of transformers 4, whose experts are linears; peft itself makes of them what transformers 5 has.
# name -> base, rank, alpha, the experts' block, their parts, keys of the other targets
EXPERT_CASES = {
    "peft_experts": (QWEN3_MOE, 2, 3, "mlp", ["gate_proj", "up_proj", "down_proj"], ["self_attn.q_proj"]),
    "peft_mixtral_experts": (MIXTRAL, 3, 4, "block_sparse_moe", ["w1", "w3", "w2"], ["self_attn.v_proj"]),
}
MLX_CASES = {  # name -> base, kind, num_layers, rank, scale, keys
    "mlx_lora": (QWEN3, "lora", -1, 4, 1.5, ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"]),
    "mlx_last_layer": (QWEN3, "lora", 1, 2, 20.0, ["self_attn.q_proj", "mlp.gate_proj"]),
    "mlx_head": (QWEN3, "lora", 2, 3, 0.75, ["self_attn.k_proj", "lm_head", "model.embed_tokens"]),
    "mlx_quantized": (QUANTIZED, "lora", -1, 4, 2.0, ["self_attn.q_proj", "mlp.up_proj"]),
    "mlx_tied_embedding": (QUANTIZED, "lora", -1, 3, 0.5, ["self_attn.o_proj", "model.embed_tokens"]),
    "mlx_dora": (QWEN3, "dora", -1, 3, 1.25, ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"]),
    "mlx_dora_quantized": (QUANTIZED, "dora", 1, 2, 1.5, ["self_attn.q_proj", "mlp.down_proj"]),
    "mlx_dora_tied_embedding": (QWEN2, "dora", 2, 2, 1.0, ["model.embed_tokens"]),
    "mlx_experts": (QWEN3_MOE_4BIT, "lora", -1, 3, 1.5, ["self_attn.q_proj", "mlp.gate", "mlp.switch_mlp.gate_proj",
                                                         "mlp.switch_mlp.up_proj", "mlp.switch_mlp.down_proj"]),
    "mlx_experts_apart": (MIXTRAL, "lora", -1, 2, 0.75, ["block_sparse_moe.switch_mlp.gate_proj",
                                                         "block_sparse_moe.switch_mlp.down_proj"]),
    "mlx_shared_expert": ("experts/qwen2_moe_mixed_widths", "lora", 1, 2, 20.0,
                          ["mlp.switch_mlp.up_proj", "mlp.shared_expert.down_proj", "mlp.shared_expert_gate"]),
    "mlx_latents": (DEEPSEEK_4BIT, "lora", -1, 3, 1.5, ["self_attn.kv_b_proj", "self_attn.q_proj", "self_attn.o_proj"]),
    "mlx_full": (QWEN2, "full", 1, None, None, None),
}


def base_weights(name):
    """The config and float64 weights of a base under tests/data/goldens, decoded where they are quantized."""
    folder = GOLDENS / name
    config = json.loads((folder / "config.json").read_text())
    stored = read_safetensors(folder / "model.safetensors")
    quantization = config.get("quantization", {})
    weights = {}
    for key, value in stored.items():
        path = key.removesuffix(".weight")
        if key.endswith((".scales", ".biases")):
            continue
        if path + ".scales" in stored:
            own = quantization.get(path)  # a module may have a width of its own
            own = own if isinstance(own, dict) else quantization
            value = dequantize64(value, stored[path + ".scales"], stored[path + ".biases"], own["bits"], own["group_size"])
        weights[key] = widen(value)
    if "kv_lora_rank" in config:
        beyond = f"model.layers.{config['num_hidden_layers']}."  # guesses tokens ahead
        weights = {key: value for key, value in mla.whole(weights, config).items() if not key.startswith(beyond)}
    return {k: v for k, v in config.items() if not k.startswith("quantization")}, weights


def build(config, weights, scratch):
    """transformers' model, wholly in float64."""
    write_json(scratch / "config.json", config)
    if config["model_type"].startswith("gemma"):
        return gemma.build(scratch, weights, "bf16")
    if config["model_type"] == "gpt_oss":
        weights = gpt_oss.of_transformers(weights)
    return float64.build(scratch, weights)


def logits_of(model, tokens):
    with mla.wide_floats() if "kv_lora_rank" in model.config.to_dict() else contextlib.nullcontext():
        return float64.logits(model, tokens)


def randomised(random, shape, size):
    """f32 values that bf16 holds exactly, so that files can be stored in either."""
    values = random.normal(0, size, shape).astype(np.float32)
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


# ---- the script's own reading of the files: dense float64 weights -------------------------------------------------

def peft_rank_and_scale(config, path):
    def of(patterns, default):
        for key, value in (patterns or {}).items():
            if re.match(rf"(.*\.)?({key})$", path):
                return value
        return default
    rank, alpha = of(config["rank_pattern"], config["r"]), of(config["alpha_pattern"], config["lora_alpha"])
    return rank, alpha / math.sqrt(rank) if config["use_rslora"] else alpha / rank


MIXTRALS = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def stack_of(weights, path):
    """The weights [experts, out, in] of mlx-lm's stack `path`, and the keys of a module for each; None where the stack is one."""
    if path + ".weight" in weights:
        return weights[path + ".weight"], None
    head, part = path.split("switch_mlp.")
    part = MIXTRALS[part] if "block_sparse_moe" in head else part
    keys = [f"{head}experts.{e}.{part}.weight" for e in range(sum(k.startswith(head + "experts.") for k in weights) // 3)]
    return np.stack([weights[k] for k in keys]), keys


def change_stack(weights, path, delta):
    values, keys = stack_of(weights, path)
    if keys is None:
        weights[path + ".weight"] = values + delta
    else:
        weights |= {key: one for key, one in zip(keys, values + delta)}


def norm(matrix, axis):
    return np.sqrt((matrix * matrix).sum(axis, keepdims=True))


def change_parameter(weights, path, a, b, config):
    """Of the parameters of a module, the one that comes first is the innermost."""
    named = [p for p in ("gate_up_proj", "down_proj") if any(t.endswith(p) for t in config["target_parameters"])]
    block, part = path.removesuffix(".base_layer"), named[0 if path.endswith("base_layer") or len(named) == 1 else 1]
    rank, scale = peft_rank_and_scale(config, f"{block}.{part}")
    experts = a.shape[0] // rank
    delta = scale * np.einsum("ore,eri->eoi", b.reshape(b.shape[0], rank, experts), a.reshape(experts, rank, a.shape[1]))
    stacks = block.removesuffix("experts") + "switch_mlp."
    if block + ".switch_glu.gate_proj.weight" in weights:
        stacks = block + ".switch_glu."
    elif not any(key.startswith(block) for key in weights):
        stacks = stacks.replace(".mlp.", ".block_sparse_moe.")
    halves = [("gate_proj", delta[:, :delta.shape[1] // 2]), ("up_proj", delta[:, delta.shape[1] // 2:])]
    for name, own in halves if part == "gate_up_proj" else [(part, delta)]:
        change_stack(weights, stacks + name, own)


def dense_peft(folder, weights):
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = {k.removeprefix("base_model.model."): widen(v) for k, v in read_safetensors(folder / "adapter_model.safetensors").items()}
    result = dict(weights)
    for key, value in tensors.items():
        if "lora_" not in key:
            result[key.replace(".base_layer", "")] = value
    if "lm_head.weight" not in result:
        result["lm_head.weight"] = weights["model.embed_tokens.weight"]  # PEFT leaves the tied head as it was
    for path in sorted({k.split(".lora_")[0] for k in tensors if ".lora_" in k}):
        if path.endswith((".experts", ".experts.base_layer")):
            change_parameter(result, path, tensors[path + ".lora_A.weight"], tensors[path + ".lora_B.weight"], config)
            continue
        rank, scale = peft_rank_and_scale(config, path)
        w = result[path + ".weight"]
        if path + ".lora_embedding_A" in tensors:
            delta = (tensors[path + ".lora_embedding_B"] @ tensors[path + ".lora_embedding_A"]).T
        else:
            delta = tensors[path + ".lora_B.weight"] @ tensors[path + ".lora_A.weight"]
        changed = w + scale * delta
        if path + ".lora_magnitude_vector" in tensors:
            m = tensors[path + ".lora_magnitude_vector"]
            embedding = path + ".lora_embedding_A" in tensors
            changed = changed * (m / norm(changed, 0) if embedding else m[:, None] / norm(changed, 1))
        result[path + ".weight"] = changed
        if path + ".lora_B.bias" in tensors:
            result[path + ".bias"] = result.get(path + ".bias", 0) + scale * tensors[path + ".lora_B.bias"]
    return result


def dense_mlx(folder, weights):
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = {k: widen(v) for k, v in read_safetensors(folder / "adapters.safetensors").items()}
    result = dict(weights)
    if config["fine_tune_type"] == "full":
        result |= tensors
    for path in sorted({k.rsplit(".", 1)[0] for k in tensors if k.endswith(".lora_a")}):
        if ".switch_mlp." in path:
            change_stack(result, path, config["lora_parameters"]["scale"] * tensors[path + ".lora_b"] @ tensors[path + ".lora_a"])
            continue
        delta = tensors[path + ".lora_a"] @ tensors[path + ".lora_b"]
        embedding = path.endswith("embed_tokens")
        changed = result[path + ".weight"] + config["lora_parameters"]["scale"] * (delta if embedding else delta.T)
        if path + ".m" in tensors:
            changed = changed * tensors[path + ".m"][:, None] / norm(changed, 1)
        result[path + ".weight"] = changed
    if "lm_head.weight" not in result:
        result["lm_head.weight"] = result["model.embed_tokens.weight"]  # mlx-lm: the same module
    return result


def dense_logits(config, weights, tokens, scratch):
    """A model without ties and with a bias wherever the weights have one."""
    config = config | {"tie_word_embeddings": False}
    biases = {k: weights[k] for k in weights if k.endswith(".bias")}
    model = build(config, {k: v for k, v in weights.items() if k not in biases or config["model_type"].startswith("qwen2")}, scratch)
    if not config["model_type"].startswith("qwen2"):
        for key, value in biases.items():
            module = model.get_submodule(key.removesuffix(".bias"))
            module.bias = torch.nn.Parameter(torch.tensor(value, dtype=torch.float64))
    return logits_of(model, tokens)


# ---- making the cases ----------------------------------------------------------------------------------------------

def make_peft(name, folder, scratch):
    base, arguments = PEFT_CASES[name]
    config, weights = base_weights(base)
    random = np.random.default_rng(zlib.crc32(name.encode()))
    torch.manual_seed(zlib.crc32(name.encode()))
    with float64.everything():
        model = get_peft_model(build(config, weights, scratch), LoraConfig(task_type="CAUSAL_LM", **arguments))
        for key, parameter in sorted(model.named_parameters()):
            if not parameter.requires_grad:
                continue
            old, shape = parameter.detach().numpy(), tuple(parameter.shape)
            if "lora_B" in key or "lora_embedding" in key or "lora_A" in key:
                new = randomised(random, shape, 0.6 / math.sqrt(min(shape) if len(shape) > 1 else 1) * (
                    1 if "lora_B" in key or "embedding_B" in key else 2 / math.sqrt(max(shape))))
            else:
                new = randomised(random, shape, 0.3 * float(np.abs(old).mean()) + 0.05) + old
            parameter.data = torch.tensor(np.float32(new).astype(np.float64))
        model.float().save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    saved = json.loads((folder / "adapter_config.json").read_text())
    saved["base_model_name_or_path"] = "tiny"
    for key in ("target_modules", "exclude_modules", "modules_to_save", "target_parameters"):  # sets, which Python writes in any order
        if isinstance(saved.get(key), list):
            saved[key] = sorted(saved[key])
    (folder / "adapter_config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
    tensors = read_safetensors(folder / "adapter_model.safetensors")
    write_safetensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    tokens = tokens_of(name, config)
    loaded = PeftModel.from_pretrained(build(config, weights, scratch), folder).to(torch.float64).eval()
    theirs = logits_of(loaded, tokens)
    plain = logits_of(build(config, weights, scratch), tokens)
    return finish(name, folder, tokens, dense_logits(config, dense_peft(folder, weights), tokens, scratch), plain,
                  peft=theirs)


def make_experts(name, folder, scratch):
    base, rank, alpha, block, parts, others = EXPERT_CASES[name]
    config, weights = base_weights(base)
    random = np.random.default_rng(zlib.crc32(name.encode()))
    experts = config.get("num_experts") or config["num_local_experts"]
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        keys = others + [f"{block}.experts.{e}.{part}" for e in range(experts) for part in parts]
        for path in (f"model.layers.{layer}.{key}" for key in keys):
            w = weights[path + ".weight"]
            tensors[f"base_model.model.{path}.lora_A.weight"] = randomised(random, (rank, w.shape[1]), 0.7)
            tensors[f"base_model.model.{path}.lora_B.weight"] = randomised(random, (w.shape[0], rank), w.std() / alpha)
    own = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, base_model_name_or_path="tiny",
                     target_modules=sorted([key.split(".")[-1] for key in others] + parts))
    own.inference_mode = True
    own.save_pretrained(folder)
    saved = json.loads((folder / "adapter_config.json").read_text())
    saved["target_modules"] = sorted(saved["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
    write_safetensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    tokens = tokens_of(name, config)
    loaded = PeftModel.from_pretrained(build(config, weights, scratch), folder).to(torch.float64).eval()
    theirs = logits_of(loaded, tokens)
    plain = logits_of(build(config, weights, scratch), tokens)
    return finish(name, folder, tokens, dense_logits(config, dense_peft(folder, weights), tokens, scratch), plain,
                  peft=theirs)


def write_mlx(folder, kind, layers, rank, scale, keys, tensors):
    parameters = {"rank": rank, "scale": scale, "dropout": 0.0, "keys": keys} if kind != "full" else None
    config = {"fine_tune_type": kind, "num_layers": layers, "lora_parameters": parameters, "model": "tiny", "iters": 100,
              "learning_rate": 1e-5, "batch_size": 4, "seed": 0, "train": True}
    write_json(folder / "adapter_config.json", dict(sorted(config.items())))
    write_safetensors(folder / "adapters.safetensors", tensors, pad=False)


def make_mlx(name, folder, scratch):
    base, kind, layers, rank, scale, keys = MLX_CASES[name]
    config, weights = base_weights(base)
    random = np.random.default_rng(zlib.crc32(name.encode()))
    count = config["num_hidden_layers"]
    first = count - layers if layers > 0 else 0
    tensors = {}
    if kind == "full":
        for key, value in weights.items():
            if re.match(rf"model\.layers\.([{first}-9])\.", key):
                tensors[key] = np.float32(value) + randomised(random, value.shape, 0.2 * np.abs(value).mean())
    else:
        paths = [k for k in keys if k + ".weight" in weights]
        paths += [f"model.layers.{i}.{k}" for i in range(first, count) for k in keys if k not in paths]
        for path in paths:
            if ".switch_mlp." in path:
                w, _ = stack_of(weights, path)
                tensors[path + ".lora_a"] = randomised(random, (w.shape[0], rank, w.shape[2]), 0.7)
                tensors[path + ".lora_b"] = randomised(random, (*w.shape[:2], rank), w.std() / math.sqrt(rank) / scale)
                continue
            w = weights[path + ".weight"]
            out, size = w.shape[::-1] if path.endswith("embed_tokens") else w.shape
            grown = w.std() / math.sqrt(rank) / scale
            tensors[path + ".lora_a"] = randomised(random, (size, rank), 0.7)
            tensors[path + ".lora_b"] = randomised(random, (rank, out), grown)
            if kind == "dora":
                tensors[path + ".m"] = (np.float32(norm(w, 1)[:, 0]) * (1 + randomised(random, w.shape[0], 0.2))).astype(np.float32)
    write_mlx(folder, kind, layers, rank, scale, keys, tensors)
    tokens = tokens_of(name, config)
    theirs = run_mlx(GOLDENS / base, folder, tokens)
    plain = logits_of(build(config, weights, scratch), tokens)
    return finish(name, folder, tokens, dense_logits(config, dense_mlx(folder, weights), tokens, scratch), plain, mlx=theirs)


def run_mlx(base, folder, tokens):
    model, _ = load_model(base)
    floats = (mx.float16, mx.bfloat16, mx.float32)
    model.update(tree_map(lambda v: v.astype(mx.float32) if v.dtype in floats else v, model.parameters()))
    load_adapters(model, str(folder))
    model.eval()
    return np.array(model(mx.array([[int(t) for t in tokens]]))[0].astype(mx.float32))


def tokens_of(name, config):
    return np.random.default_rng(zlib.crc32(name.encode()) + 1).integers(0, config["vocab_size"], TOKENS).astype(np.int32)


def finish(name, folder, tokens, logits, plain, peft=None, mlx=None):
    write_safetensors(folder / "golden.safetensors", {"tokens": tokens, "logits": logits})
    told, bad = [], False
    for who, theirs, limit in (("peft f64", peft, 1e-9), ("mlx-lm f32", mlx, 2e-5)):
        if theirs is not None:
            gap = errors(theirs, logits)[0]
            told.append(f"{who}: {gap:.1e}")
            bad |= not gap <= limit
    effect = errors(plain, logits)[1]
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{'DIFFERS' if bad else 'ok':8}{name:26} {size // 1024:4} KiB  changes the logits by {effect:.2f} rms  {', '.join(told)}",
          flush=True)
    return bad or not effect > 0.01


def make_twin(out):
    """mlx_twin: the tensors of peft_lora as mlx-lm holds them."""
    tensors = read_safetensors(out / "peft_lora" / "adapter_model.safetensors")
    turned = {}
    for key, value in tensors.items():
        path, leaf = key.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".", 1)
        turned[f"{path}.{leaf.lower()}"] = np.ascontiguousarray(value.T)
    keys = [f"{'self_attn' if k in ATTENTION else 'mlp'}.{k}" for k in ALL]
    write_mlx(out / "mlx_twin", "lora", 2, 4, 2.5, keys, turned)
    shutil.copy(out / "peft_lora" / "golden.safetensors", out / "mlx_twin" / "golden.safetensors")
    golden = read_safetensors(out / "mlx_twin" / "golden.safetensors")
    gap = errors(run_mlx(GOLDENS / QWEN3, out / "mlx_twin", golden["tokens"]), golden["logits"])[0]
    print(f"{'ok' if gap <= 2e-5 else 'DIFFERS':8}mlx_twin of peft_lora: mlx-lm f32 {gap:.1e}")
    return not gap <= 2e-5


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=GOLDENS / "adapters")
    parser.add_argument("--only", help="one case, for work on this script")
    arguments = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        for cases, make in ((PEFT_CASES, make_peft), (EXPERT_CASES, make_experts), (MLX_CASES, make_mlx)):
            for name in cases:
                if arguments.only in (None, name):
                    (arguments.out / name).mkdir(parents=True, exist_ok=True)
                    wrong += make(name, arguments.out / name, Path(scratch))
    if not arguments.only:
        wrong += make_twin(arguments.out)
        bases = {name: case[0] for name, case in (PEFT_CASES | EXPERT_CASES | MLX_CASES).items()} | {"mlx_twin": QWEN3}
        write_json(arguments.out / "cases.json", dict(sorted(bases.items())))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
