"""Makes tests/data/goldens/delta/<case>/: tiny random hybrids of gated delta nets and gated attention (Qwen3-Next, 3.5 and 3.5 MoE).

Raw cases lie as Hugging Face writes them; the others are what mlx-lm makes of such a checkpoint, quantized or not. The
goldens are transformers' own code, its chunked form in torch, wholly in float64. Long cases are several chunks long and
keep two tensors only.
"""
import contextlib
import re
import sys
import tempfile
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

import float64
from common import agreement, make_all, store, store_case, widen, write_json, write_safetensors
from experts import quantized_by_mlx
from mlx_logits import mlx_logits
from models import TORCH
from quant import from_mx

TOKENS, LONG = 12, 150
COMMON = {
    "attention_bias": False, "attention_dropout": 0.0, "full_attention_interval": 2, "head_dim": 16,
    "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 64, "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_value_head_dim": 16,
    "max_position_embeddings": 512, "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "vocab_size": 64}
EXPERTS = {"decoder_sparse_step": 1, "mlp_only_layers": [], "moe_intermediate_size": 32, "norm_topk_prob": True, "num_experts": 4,
           "num_experts_per_tok": 2, "shared_expert_intermediate_size": 32}
ROPE = {"mrope_interleaved": True, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.25, "rope_theta": 10000000,
        "rope_type": "default"}
NEXT = COMMON | EXPERTS | {"architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next",
                           "partial_rotary_factor": 0.25, "rope_scaling": None, "rope_theta": 10000000}
DENSE = COMMON | {"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", "rope_parameters": ROPE}
MOE = COMMON | EXPERTS | {"architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text", "rope_parameters": ROPE}
FOUR = {"bits": 4, "group_size": 32}
# name -> config of the text model; dtype of the dense weights; None (raw), {} (mlx-lm's, dense) or its quantization
CASES = {
    "qwen3_next": (NEXT | {"num_experts": 3}, "bf16", None),
    "qwen3_next_4bit": (NEXT | {"num_key_value_heads": 1}, "bf16", FOUR),
    "qwen3_5": (DENSE | {"attention_bias": True}, "f16", None),
    "qwen3_5_tied_4bit": (DENSE | {"tie_word_embeddings": True, "num_hidden_layers": 3, "full_attention_interval": 3},
                          "bf16", FOUR),
    "qwen3_5_moe_4bit": (MOE, "bf16", FOUR),
    "qwen3_5_long": (DENSE | {"num_hidden_layers": 2}, "bf16", {}),
}
NORMS = re.compile(r"(input_layernorm|post_attention_layernorm|model\.norm|q_norm|k_norm)\.weight$")


def make_weights(config, seed):
    """Under the names of the text model, as transformers 5 holds them: norms are added to one, experts are stacked."""
    random = np.random.default_rng(seed)
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    dim, heads, kv = config["head_dim"], config["num_attention_heads"], config["num_key_value_heads"]
    key_heads, value_heads = config["linear_num_key_heads"], config["linear_num_value_heads"]
    keys, values = key_heads * config["linear_key_head_dim"], value_heads * config["linear_value_head_dim"]
    weights = {"model.embed_tokens.weight": random.normal(0, 1, (vocab, hidden)),
               "model.norm.weight": random.normal(0, 0.3, hidden)}

    def linear(name, rows, columns, bias=False, gain=1.0):
        weights[name + ".weight"] = random.normal(0, gain / np.sqrt(columns), (rows, columns))
        if bias:
            weights[name + ".bias"] = random.normal(0, 0.5, rows)

    def mlp(at, inner):
        linear(at + "gate_proj", inner, hidden)
        linear(at + "up_proj", inner, hidden)
        linear(at + "down_proj", hidden, inner)

    def delta_net(at):
        if config["model_type"] == "qwen3_next":
            linear(at + "in_proj_qkvz", 2 * keys + 2 * values, hidden)
            linear(at + "in_proj_ba", 2 * value_heads, hidden)
        else:
            linear(at + "in_proj_qkv", 2 * keys + values, hidden)
            linear(at + "in_proj_z", values, hidden)
            linear(at + "in_proj_b", value_heads, hidden)
            linear(at + "in_proj_a", value_heads, hidden)
        weights[at + "conv1d.weight"] = random.normal(0, 0.5, (2 * keys + values, 1, config["linear_conv_kernel_dim"]))
        # From states that forget at once to such that remember everything.
        weights[at + "A_log"] = np.log(np.geomspace(0.01, 8, value_heads))
        weights[at + "dt_bias"] = random.normal(0, 1, value_heads)
        weights[at + "norm.weight"] = random.normal(1, 0.3, config["linear_value_head_dim"])
        linear(at + "out_proj", hidden, values)

    def attention(at):
        for name, rows in (("q", 2 * heads * dim), ("k", kv * dim), ("v", kv * dim)):
            linear(f"{at}{name}_proj", rows, hidden, config["attention_bias"], 1.5)
        linear(at + "o_proj", hidden, heads * dim, config["attention_bias"])
        for name in "qk":
            weights[f"{at}{name}_norm.weight"] = random.normal(0.3, 0.3, dim)

    if not config["tie_word_embeddings"]:
        linear("lm_head", vocab, hidden)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        for name in ("input", "post_attention"):
            weights[f"{at}{name}_layernorm.weight"] = random.normal(0, 0.3, hidden)
        if (i + 1) % config["full_attention_interval"]:
            delta_net(at + "linear_attn.")
        else:
            attention(at + "self_attn.")
        if "num_experts" not in config:
            mlp(at + "mlp.", config["intermediate_size"])
            continue
        experts, inner = config["num_experts"], config["moe_intermediate_size"]
        linear(at + "mlp.gate", experts, hidden, gain=3)
        linear(at + "mlp.shared_expert_gate", 1, hidden)
        mlp(at + "mlp.shared_expert.", config["shared_expert_intermediate_size"])
        weights[at + "mlp.experts.gate_up_proj"] = random.normal(0, 1.5 / np.sqrt(hidden), (experts, 2 * inner, hidden))
        weights[at + "mlp.experts.down_proj"] = random.normal(0, 1.5 / np.sqrt(inner), (experts, hidden, inner))
    return weights


def as_files(config, stored):
    """(tensors, config) of a repository of Hugging Face: Qwen3-Next has a module for each expert, the others lie inside
    a model with vision."""
    if config["model_type"] != "qwen3_next":
        tensors = {re.sub(r"^model\.", "model.language_model.", name): value for name, value in stored.items()}
        family = config["model_type"].removesuffix("_text")
        return tensors, {"architectures": ["AModelWithVision"], "model_type": family, "text_config": config,
                         "tie_word_embeddings": config["tie_word_embeddings"], "torch_dtype": config["torch_dtype"]}
    tensors = {}
    for name, value in stored.items():
        if name.endswith("experts.gate_up_proj"):
            for e in range(value.shape[0]):
                gate, up = (value[e][part] for part in (slice(0, value.shape[1] // 2), slice(value.shape[1] // 2, None)))
                tensors[name.replace("gate_up_proj", f"{e}.gate_proj.weight")] = gate
                tensors[name.replace("gate_up_proj", f"{e}.up_proj.weight")] = up
        elif name.endswith("experts.down_proj"):
            for e in range(value.shape[0]):
                tensors[name.replace("down_proj", f"{e}.down_proj.weight")] = value[e]
        else:
            tensors[name] = value
    return tensors, config


def by_mlx(folder, config, how):
    """(tensors, config, exact weights as transformers wants them) of what mlx-lm makes of the checkpoint in `folder`."""
    if how:
        tensors, config, exact = quantized_by_mlx(folder, config, how)
    else:
        model, _ = load_model(folder)
        tensors = {name: from_mx(value) for name, value in tree_flatten(model.parameters())}
        exact = {name: widen(value) for name, value in tensors.items()}
    back = {}
    for name, value in exact.items():
        name = name.removeprefix("language_model.")
        if name.endswith("conv1d.weight"):
            value = np.moveaxis(value, 2, 1)
        back[name] = value - 1 if NORMS.search(name) else value
    return tensors, config, back


@contextlib.contextmanager
def no_float32():
    """Inside, tensor.float() is as wide as float64.everything() makes the rest."""
    real = torch.Tensor.float
    torch.Tensor.float = lambda self: self.to(torch.float64)
    try:
        yield
    finally:
        torch.Tensor.float = real


def tapped(model, tokens, config):
    """Name -> [tokens, width] for every operation of the pass, `logits` among them."""
    taps, hooks = {}, []

    def keep(name, value):
        if name in taps:
            raise ValueError(f"{name} was computed twice")
        taps[name] = value.detach().reshape(len(tokens), -1).numpy().copy()

    def output(module, name):
        hooks.append(module.register_forward_hook(lambda _, __, out, name=name: keep(name, out)))

    def entry(module, name, index=0):
        hooks.append(module.register_forward_pre_hook(lambda _, args, name=name: keep(name, args[index])))

    body, source = model.model, sys.modules[type(model).__module__]
    output(body.embed_tokens, "embed")
    recurrent, attending = [], []
    for i, layer in enumerate(body.layers):
        at = f"layers.{i}."
        output(layer.input_layernorm, at + "attn_norm")
        if hasattr(layer, "linear_attn"):
            recurrent.append(at)
            for name, module in layer.linear_attn.named_children():
                if name.startswith("in_proj"):
                    output(module, at + name)
            entry(layer.linear_attn.norm, at + "delta")
            entry(layer.linear_attn.out_proj, at + "glu")
            output(layer.linear_attn.out_proj, at + "out")
        else:
            attending.append(at)
            for letter in "qkv":
                output(getattr(layer.self_attn, letter + "_proj"), at + letter)
            entry(layer.self_attn.o_proj, at + "glu")
            output(layer.self_attn.o_proj, at + "o")
        output(layer.post_attention_layernorm, at + "mlp_norm")
        mlp = layer.mlp
        if hasattr(mlp, "experts"):
            hooks.append(mlp.gate.register_forward_hook(lambda _, __, out, at=at: (
                keep(at + "router", out[0]), keep(at + "expert_weights", out[1])) and None))
            output(mlp.experts, at + "experts")
            output(mlp.shared_expert_gate, at + "shared_expert_gate")
            mlp = mlp.shared_expert
        output(mlp.gate_proj, at + "gate")
        output(mlp.up_proj, at + "up")
        entry(mlp.down_proj, at + "glu_2")
        output(mlp.down_proj, at + "down")
    output(body.norm, "final_norm")

    kept = {name: getattr(source, name) for name in ("apply_rotary_pos_emb", "causal_conv1d_fn", "eager_attention_forward")}
    counts = {"rope": 0, "conv": 0, "attn": 0}

    def rotate(*arguments, **keywords):
        q, k = kept["apply_rotary_pos_emb"](*arguments, **keywords)
        for name, value in (("q_rope", q), ("k_rope", k)):  # [1, heads, tokens, head_dim]
            keep(attending[counts["rope"]] + name, value.transpose(1, 2).contiguous())
        counts["rope"] += 1
        return q, k

    def convolve(*arguments, **keywords):
        y = kept["causal_conv1d_fn"](*arguments, **keywords)
        keep(recurrent[counts["conv"]] + "conv", y.transpose(1, 2).contiguous())
        counts["conv"] += 1
        return y

    def attend(*arguments, **keywords):
        y, weights = kept["eager_attention_forward"](*arguments, **keywords)
        keep(attending[counts["attn"]] + "attn", y)
        counts["attn"] += 1
        return y, weights

    source.apply_rotary_pos_emb, source.causal_conv1d_fn, source.eager_attention_forward = rotate, convolve, attend
    try:
        keep("logits", torch.tensor(float64.logits(model, tokens)))
    finally:
        for name, function in kept.items():
            setattr(source, name, function)
        for hook in hooks:
            hook.remove()
    if counts != {"rope": len(attending), "conv": len(recurrent), "attn": len(attending)}:
        raise ValueError(f"{counts} of {len(recurrent)} recurrent and {len(attending)} other layers")
    add_parts(taps, model, config, recurrent, attending)
    return taps


def add_parts(taps, model, config, recurrent, attending):
    """What transformers computes within a module, or only as another shape."""
    dv, dk = config["linear_value_head_dim"], config["linear_key_head_dim"]
    groups = config["linear_num_key_heads"]
    r = config["linear_num_value_heads"] // groups
    for at in recurrent:
        heads = taps[at + "delta"].reshape(-1, dv)
        norm = model.model.layers[int(at.split(".")[1])].linear_attn.norm
        normed = heads / np.sqrt((heads**2).mean(1, keepdims=True) + norm.variance_epsilon) * norm.weight.detach().numpy()
        taps[at + "head_norm"] = normed.reshape(taps[at + "delta"].shape)
        if at + "in_proj_qkvz" in taps:
            rows = len(taps[at + "delta"])
            grouped = taps[at + "in_proj_qkvz"].reshape(rows, groups, -1)
            pieces = np.split(grouped, [dk, 2 * dk, 2 * dk + r * dv], axis=2)
            taps[at + "part0"] = np.concatenate([piece.reshape(rows, -1) for piece in pieces[:3]], axis=1)
            taps[at + "part1"] = pieces[3].reshape(rows, -1)
            b, a = np.split(taps[at + "in_proj_ba"].reshape(rows, groups, -1), [r], axis=2)
            taps[at + "part0_2"], taps[at + "part1_2"] = b.reshape(rows, -1), a.reshape(rows, -1)
    for at in attending:
        q = taps[at + "q"]
        halves = q.reshape(len(q), config["num_attention_heads"], 2, -1)
        taps[at + "part0"], taps[at + "part1"] = (halves[:, :, i].reshape(len(q), -1) for i in (0, 1))
    for name in [name for name in taps if name.endswith(".shared_expert_gate")]:
        at = name.removesuffix("shared_expert_gate")
        taps[at + "gated"] = taps[at + "down"] / (1 + np.exp(-taps[name]))


def make(name, folder):
    config, dtype, how = CASES[name]
    config = config | {"torch_dtype": TORCH[dtype]}
    seed = zlib.crc32(name.encode())
    stored = {key: store(value, dtype) for key, value in make_weights(config, seed).items()}
    tokens = np.random.default_rng(seed + 1).integers(0, config["vocab_size"], LONG if "long" in name else TOKENS).astype(np.int32)
    with tempfile.TemporaryDirectory() as scratch:
        text, dense = Path(scratch) / "text", Path(scratch) / "dense"
        write_json(text / "config.json", config)
        tensors, new_config = as_files(config, stored)
        write_json(dense / "config.json", new_config)
        write_safetensors(dense / "model.safetensors", tensors, {"format": "pt"})
        exact = {key: widen(value) for key, value in stored.items()}
        if how is not None:
            tensors, new_config, exact = by_mlx(dense, new_config, how)
            write_json(Path(scratch) / "q" / "config.json", new_config)
            write_safetensors(Path(scratch) / "q" / "model.safetensors", tensors)
        theirs = None
        # mlx-lm rounds norms that it adds to one to the file's type; of its own files it only reads them.
        if how is not None:
            theirs = mlx_logits(Path(scratch) / "q", tokens)
        with no_float32():
            model = float64.build(text, exact)
            taps = tapped(model, tokens, config)
        single = float64.build(text, exact, double=False)
    if "tied" in name:
        for extra in ("vision_tower.patch_embed.weight", "language_model.mtp.fc.weight", "mtp.norm.weight"):
            tensors[extra] = np.ones((2, 3), np.float16)
    if "long" in name:
        taps = {key: taps[key] for key in ("logits", "layers.0.delta")}
    store_case(folder, new_config, tensors, taps, tokens, "mlx" if how is not None else "pt")
    return agreement(name, folder, taps["logits"], float64.logits(single, tokens, double=False), theirs, 5e-5)


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    make_all(__doc__, "delta", CASES, make)
