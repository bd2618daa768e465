"""Runs transformers models wholly in float64 and taps every intermediate under this project's names.

transformers computes norms, rotary angles and the softmax in float32 whatever the model's dtype. Inside `everything()`
the name torch.float32 means float64, so those three follow as well, and the inverse frequencies are made in float64.
`widen` False leaves them as transformers has them: what `model.double()` means to everybody else, and, for the rotary
angles of long texts, what models were trained with.
"""
import contextlib
import re
import sys

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

torch.set_num_threads(2)
torch.cuda.is_current_stream_capturing = lambda: False  # transformers asks even where there is no device to ask


@contextlib.contextmanager
def everything():
    kept = torch.float, torch.float32
    real = kept[1]
    torch.float = torch.float32 = torch.float64
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.float, torch.float32 = kept
        torch.set_default_dtype(real)


def with_stacked_experts(weights):
    """Experts as transformers 5 holds them, gate and up in one tensor, from a module for each or from mlx-lm's stacks."""
    rest, stacks = {}, {}
    names = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    for name, value in weights.items():
        name = name.replace(".block_sparse_moe.", ".mlp.")
        if found := re.fullmatch(r"(.*\.(?:mlp|feed_forward)\.)experts\.(\d+)\.(\w+)\.weight", name):
            part = names.get(found[3], found[3])
            stacks.setdefault(found[1], {}).setdefault(part, {})[int(found[2])] = value
        elif found := re.fullmatch(r"(.*\.(?:mlp|feed_forward)\.)switch_mlp\.(\w+)\.weight", name):
            stacks.setdefault(found[1], {})[found[2]] = dict(enumerate(value))
        else:
            rest[name] = value
    for at, parts in stacks.items():
        gate, up, down = (np.stack([part[e] for e in range(len(part))]) for part in
                          (parts["gate_proj"], parts["up_proj"], parts["down_proj"]))
        rest[at + "experts.gate_up_proj"] = np.concatenate([gate, up], axis=1)
        rest[at + "experts.down_proj"] = down
    return rest


def build(folder, weights, double=True, widen=True):
    """The model of folder/config.json with `weights` (name -> numpy); `double` False: in transformers' own float32."""
    dtype = torch.float64 if double else torch.float32
    with everything() if double and widen else contextlib.nullcontext():
        config = AutoConfig.from_pretrained(folder)
        config._experts_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype).eval()
        state = {name: torch.tensor(value).to(dtype) for name, value in with_stacked_experts(weights).items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
        if set(missing) - tied or unexpected:
            raise ValueError(f"{folder}: missing {missing}, unexpected {unexpected}")
        if config.tie_word_embeddings:
            model.tie_weights()
        rotation = getattr(model.model, "rotary_emb", None) or model.model.pos_emb
        frequencies = [value for name, value in rotation.named_buffers() if name.endswith("inv_freq")]
        if not frequencies or (double and any(value.dtype != torch.float64 for value in frequencies)):
            raise ValueError("the inverse frequencies are not float64")
    return model


def logits(model, tokens, double=True, widen=True):
    with torch.no_grad(), everything() if double and widen else contextlib.nullcontext():
        return model(torch.tensor([list(tokens)]), use_cache=False).logits[0].numpy()


def tapped(model, tokens):
    """Name -> [tokens, width] for every operation of the pass, `logits` among them."""
    taps, hooks = {}, []

    def keep(name, value):
        if name in taps:
            raise ValueError(f"{name} was computed twice")
        taps[name] = value.detach().reshape(len(tokens), -1).numpy().copy()

    def output(module, name):
        hooks.append(module.register_forward_hook(lambda _, __, out, name=name: keep(name, out)))

    def entry(module, name):
        hooks.append(module.register_forward_pre_hook(lambda _, args, name=name: keep(name, args[0])))

    body = model.model
    output(body.embed_tokens, "embed")
    for i, layer in enumerate(body.layers):
        at = f"layers.{i}."
        output(layer.input_layernorm, at + "attn_norm")
        for letter in "qkv":
            output(getattr(layer.self_attn, letter + "_proj"), at + letter)
        entry(layer.self_attn.o_proj, at + "attn")
        output(layer.self_attn.o_proj, at + "o")
        output(layer.post_attention_layernorm, at + "mlp_norm")
        mlp = layer.mlp
        if hasattr(mlp, "experts"):
            router = mlp.router if hasattr(mlp, "router") else mlp.gate
            hooks.append(router.register_forward_hook(lambda _, __, out, at=at: (
                keep(at + "router", out[0]), keep(at + "expert_weights", out[1])) and None))
            output(mlp.experts, at + "experts")
            mlp = getattr(mlp, "shared_expert", None)
        if mlp is None:
            continue
        output(mlp.gate_proj, at + "gate")
        output(mlp.up_proj, at + "up")
        entry(mlp.down_proj, at + "glu")
        output(mlp.down_proj, at + "down")
        if mlp is not layer.mlp:
            output(layer.mlp.shared_expert_gate, at + "shared_expert_gate")
    output(body.norm, "final_norm")

    rotating = [i for i, layer in enumerate(body.layers) if getattr(layer.self_attn, "use_rope", True)]
    source = sys.modules[type(model).__module__]
    rotate, calls = source.apply_rotary_pos_emb, []

    def rotate_and_keep(*arguments, **keywords):
        q, k = rotate(*arguments, **keywords)
        for name, value in (("q_rope", q), ("k_rope", k)):  # [1, heads, tokens, head_dim]
            keep(f"layers.{rotating[len(calls)]}.{name}", value.transpose(1, 2).contiguous())
        calls.append(1)
        return q, k

    source.apply_rotary_pos_emb = rotate_and_keep
    try:
        keep("logits", torch.tensor(logits(model, tokens)))
    finally:
        source.apply_rotary_pos_emb = rotate
        for hook in hooks:
            hook.remove()
    for name in [name for name in taps if name.endswith(".shared_expert_gate")]:
        at = name.removesuffix("shared_expert_gate")
        taps[at + "gated"] = taps[at + "down"] / (1 + np.exp(-taps[name]))
    if len(calls) != len(rotating):
        raise ValueError(f"{len(calls)} rotations for {len(rotating)} layers")
    return taps
