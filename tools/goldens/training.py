"""Makes tests/data/goldens/training/: what mlx.optimizers, mlx-lm's trainer and transformers with peft do, step by step.

optimizers.safetensors: parameters after some updates, per case of optimizers.json. schedules.json: learning rates by
update. <case>/golden.safetensors of cases.json: rows, the factors to begin with, the gradients of the first batch and
ten losses. mlx-lm trains in f32 with its own trainer; its padding token after each row's end is not scored, and batches
come in the order of the file. peft trains in float64, a row at a time, on the dequantized weights; of the families whose
gradients mlx-lm computes otherwise (windows that it ignores, chunks in f32), it alone is asked.
"""
import argparse
import contextlib
import io
import re
import sys
import tempfile
import zlib
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import torch
from mlx.utils import tree_flatten, tree_map
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.trainer import TrainingArgs, train
from mlx_lm.tuner.utils import build_schedule, linear_to_lora_layers
from mlx_lm.utils import load_model
from peft import LoraConfig, get_peft_model

import delta
import float64
from adapters import base_weights, build, stack_of
from common import GOLDENS, write_json, write_safetensors

mx.set_default_device(mx.cpu)
mx.disable_compile()  # the CPU has nothing to gain from it
STEPS, ITERATIONS, BATCH = 6, 10, 4

OPTIMIZERS = {  # name -> mlx class, our kind, settings (mlx's names), learning rate
    "adam": ("Adam", "adam", {}, 1e-2),
    "adam_corrected": ("Adam", "adam", {"bias_correction": True}, 1e-2),
    "adam_betas": ("Adam", "adam", {"betas": [0.8, 0.95], "eps": 1e-3}, 1e-2),
    "adamw": ("AdamW", "adamw", {}, 1e-2),
    "adamw_decay": ("AdamW", "adamw", {"weight_decay": 0.3, "bias_correction": True}, 1e-2),
    "sgd": ("SGD", "sgd", {}, 1e-1),
    "sgd_momentum": ("SGD", "sgd", {"momentum": 0.9, "weight_decay": 0.1}, 1e-1),
    "sgd_nesterov": ("SGD", "sgd", {"momentum": 0.9, "nesterov": True}, 1e-1),
    "sgd_dampened": ("SGD", "sgd", {"momentum": 0.8, "dampening": 0.3}, 1e-1),
    "adafactor": ("Adafactor", "adafactor", {}, 1e-2),
    "adafactor_absolute": ("Adafactor", "adafactor", {"relative_step": False, "scale_parameter": False}, 1e-2),
    "adafactor_moment": ("Adafactor", "adafactor", {"beta_1": 0.9, "weight_decay": 0.1, "warmup_init": True,
                                                   "clip_threshold": 0.5, "decay_rate": -0.6}, 1e-2),
    "muon": ("Muon", "muon", {}, 1e-2),
    "muon_plain": ("Muon", "muon", {"nesterov": False, "ns_steps": 3, "weight_decay": 0.0, "momentum": 0.8}, 1e-2),
}
SCHEDULES = {
    "cosine": {"name": "cosine_decay", "arguments": [1e-3, 20]},
    "cosine_end_warm": {"name": "cosine_decay", "arguments": [1e-5, 30, 1e-7], "warmup": 5, "warmup_init": 1e-7},
    "exponential": {"name": "exponential_decay", "arguments": [1e-1, 0.9]},
    "exponential_warm": {"name": "exponential_decay", "arguments": [1e-3, 0.97], "warmup": 3},
    "step": {"name": "step_decay", "arguments": [1e-1, 0.5, 7]},
    "linear": {"name": "linear_schedule", "arguments": [1e-3, 1e-5, 25], "warmup": 10},
}
QUANTIZED, QWEN3, LLAMA = "widths/b4_g64_tied_bf16", "models/qwen3", "models/llama"
ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
ALL = ATTENTION + ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
DELTA = [f"linear_attn.{name}" for name in ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")]
SOME = ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"]
STACKS = ["mlp.switch_mlp.gate_proj", "mlp.switch_mlp.up_proj", "mlp.switch_mlp.down_proj"]
RUNS = {  # name -> maker, base, kind, num_layers, rank, scale (peft: alpha), rslora, keys, optimizer, rate, masked
    "mlx_lora_4bit": ("mlx", QUANTIZED, "lora", -1, 4, 4.0, False, ALL, "adam", 1e-3, False),
    "mlx_dora_4bit": ("mlx", QUANTIZED, "dora", -1, 2, 2.0, False, SOME, "adamw", 1e-3, False),
    "mlx_lora_qwen3": ("mlx", QWEN3, "lora", 1, 3, 20.0, False, SOME, "sgd", 1e-2, True),
    "mlx_lora_llama": ("mlx", LLAMA, "lora", -1, 2, 10.0, False, ALL, "adam", 1e-3, True),
    "mlx_lora_qwen3_moe": ("mlx", "experts/qwen3_moe_4bit", "lora", -1, 3, 4.0, False,
                           ["self_attn.q_proj", "mlp.gate", *STACKS], "adam", 1e-3, False),
    "mlx_lora_qwen2_moe": ("mlx", "experts/qwen2_moe", "lora", -1, 2, 5.0, False,
                           ["self_attn.v_proj", "mlp.shared_expert.down_proj", "mlp.shared_expert_gate", STACKS[2]],
                           "sgd", 1e-2, True),
    "mlx_lora_mixtral": ("mlx", "experts/mixtral", "lora", 1, 2, 8.0, False,
                         ["self_attn.o_proj", *(key.replace("mlp.", "block_sparse_moe.", 1) for key in STACKS[:2])],
                         "adam", 1e-3, True),
    "peft_lora_4bit": ("peft", QUANTIZED, "lora", -1, 4, 8.0, False, ALL, "adam_corrected", 1e-3, False),
    "peft_rslora_llama": ("peft", LLAMA, "lora", -1, 3, 4.0, True, SOME, "adam_corrected", 1e-3, True),
    "peft_dora_4bit": ("peft", QUANTIZED, "dora", -1, 2, 4.0, False, SOME, "adam_corrected", 1e-3, False),
    "peft_lora_qwen3": ("peft", QWEN3, "lora", -1, 2, 3.0, False, ATTENTION, "adam_corrected", 1e-3, True),
    "peft_lora_gemma2": ("peft", "gemma/gemma2_4bit", "lora", -1, 2, 4.0, False, ALL, "adam_corrected", 1e-3, False),
    "peft_lora_gemma3": ("peft", "gemma/gemma3_packaged_4bit", "lora", -1, 2, 4.0, False, ALL, "adam_corrected", 1e-3, True),
    "peft_lora_gemma4": ("peft", "gemma/gemma4_e_4bit", "lora", -1, 2, 4.0, False,
                         ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "per_layer_input_gate",
                          "per_layer_projection"], "adam_corrected", 1e-3, False),
    "peft_lora_gemma4_moe": ("peft", "gemma/gemma4_moe_4bit", "lora", -1, 2, 4.0, False,
                             ["self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"], "adam_corrected", 1e-3, True),
    "peft_lora_qwen3_5": ("peft", "delta/qwen3_5", "lora", -1, 2, 4.0, False, DELTA + ALL, "adam_corrected", 1e-3, False),
    "peft_lora_gpt_oss": ("peft", "gpt_oss/gpt_oss", "lora", -1, 2, 4.0, False, ATTENTION, "adam_corrected", 1e-3, True),
}


def f32(values):
    return np.asarray(values, dtype=np.float32)


# ---- optimizers and schedules --------------------------------------------------------------------------------------

def make_optimizers(out):
    random = np.random.default_rng(7)
    shapes = {"lora_a": (24, 4), "lora_b": (4, 20), "m": (20,)}
    first = {name: f32(random.normal(0, 0.3, shape)) for name, shape in shapes.items()}
    gradients = [{name: f32(random.normal(0, 10.0 ** random.uniform(-3, 1), shape)) for name, shape in shapes.items()}
                 for _ in range(STEPS)]
    tensors = {f"first.{name}": value for name, value in first.items()}
    for i, step in enumerate(gradients):
        tensors |= {f"gradient.{i}.{name}": value for name, value in step.items()}
    cases = {}
    for case, (cls, kind, settings, rate) in OPTIMIZERS.items():
        optimizer = getattr(optim, cls)(learning_rate=rate, **settings)
        values = {name: mx.array(value) for name, value in first.items()}
        for i, step in enumerate(gradients):
            values = optimizer.apply_gradients({name: mx.array(value) for name, value in step.items()}, values)
            mx.eval(values)
            if i in (0, STEPS - 1):
                tensors |= {f"{case}.{i}.{name}": np.array(value) for name, value in values.items()}
        cases[case] = {"kind": kind, "settings": settings, "learning_rate": rate}
    clipped, norm = optim.clip_grad_norm({name: mx.array(value) for name, value in gradients[0].items()}, 0.75)
    tensors |= {f"clipped.{name}": np.array(value) for name, value in clipped.items()}
    tensors["clipped_norm"] = f32([norm.item()])
    write_safetensors(out / "optimizers.safetensors", tensors)
    write_json(out / "optimizers.json", cases)


def make_schedules(out):
    rates = {}
    for name, config in SCHEDULES.items():
        schedule = build_schedule(config)
        steps = list(range(0, 45))
        values = [mx.array(schedule(mx.array(step, mx.uint64))).astype(mx.float32).item() for step in steps]
        rates[name] = {"config": config, "rates": values}
    write_json(out / "schedules.json", rates)


# ---- runs ----------------------------------------------------------------------------------------------------------

def paths_of(config, weights, kind_keys, layers):
    """Layers of a hybrid do not have all of them."""
    count = config["num_hidden_layers"]
    paths = [f"model.layers.{i}.{key}" for i in range(count - layers if layers > 0 else 0, count) for key in kind_keys]
    return [path for path in paths if ".switch_mlp." in path or path + ".weight" in weights]


def text_of(config, weights):
    """The text model of one that sees too, under its own names."""
    if "text_config" not in config:
        return config, weights
    inner = re.compile(r"^(model\.language_model\.|language_model\.model\.)")
    kept = {inner.sub("model.", name): value for name, value in weights.items()
            if inner.match(name) or name.startswith("lm_head")}
    return config["text_config"], kept


def begin(name, weights, run):
    """Rows of tokens with their offsets, the order of batches, and factors in mlx-lm's orientation."""
    _, _, kind, _, rank, scale, _, _, _, _, masked = run
    random = np.random.default_rng(zlib.crc32(name.encode()))
    vocab = weights["model.embed_tokens.weight"].shape[0]
    rows = [random.integers(0, vocab, random.integers(5, 15)).astype(np.int32) for _ in range(3 * BATCH)]
    offsets = [int(random.integers(1, len(row) - 1)) if masked else 0 for row in rows]
    order = [int(b) for b in random.integers(0, 3, ITERATIONS)]
    return random, rows, offsets, order


def factors_of(random, weights, paths, kind, rank):
    tensors = {}
    for path in paths:
        if ".switch_mlp." in path:
            experts, out, size = stack_of(weights, path)[0].shape
            tensors[path + ".lora_a"] = f32(random.uniform(-1, 1, (experts, rank, size)) / np.sqrt(size))
            tensors[path + ".lora_b"] = f32(random.normal(0, 0.03, (experts, out, rank)))
            continue
        out, size = weights[path + ".weight"].shape
        tensors[path + ".lora_a"] = f32(random.uniform(-1, 1, (size, rank)) / np.sqrt(size))
        tensors[path + ".lora_b"] = f32(random.normal(0, 0.03, (rank, out)))
        if kind == "dora":
            length = np.sqrt((weights[path + ".weight"] ** 2).sum(1))
            tensors[path + ".m"] = f32(length * random.uniform(0.9, 1.1, out))
    return tensors


class Losses(TrainingCallback):
    def __init__(self):
        self.values = []

    def on_train_loss_report(self, info):
        self.values.append(info["train_loss"])


def run_mlx(run, rows, offsets, order, factors):
    _, base, kind, layers, rank, scale, _, keys, optimizer, rate, _ = run
    model, _ = load_model(GOLDENS / base)
    floats = (mx.float16, mx.bfloat16, mx.float32)
    model.update(tree_map(lambda v: v.astype(mx.float32) if v.dtype in floats else v, model.parameters()))
    model.freeze()
    linear_to_lora_layers(model, layers, {"rank": rank, "scale": scale, "dropout": 0.0, "keys": keys},
                          use_dora=kind == "dora")
    model.load_weights([(k, mx.array(v)) for k, v in factors.items()], strict=False)
    trainable = dict(tree_flatten(model.trainable_parameters()))
    if trainable.keys() != factors.keys():
        raise SystemExit(f"mlx-lm trains {sorted(trainable.keys() ^ factors.keys())[:4]} otherwise")

    def batches(**_):
        for b in order:
            chosen = range(b * BATCH, (b + 1) * BATCH)
            width = max(len(rows[j]) for j in chosen)
            tokens = np.zeros((BATCH, width), np.int32)
            for place, j in enumerate(chosen):
                tokens[place, :len(rows[j])] = rows[j]
            yield mx.array(tokens), mx.array([[offsets[j], len(rows[j])] for j in chosen])

    def loss(model, batch, lengths):
        steps = mx.arange(1, batch.shape[1])
        mask = mx.logical_and(steps >= lengths[:, 0:1], steps < lengths[:, 1:])  # the trainer's own has <=
        ce = nn.losses.cross_entropy(model(batch[:, :-1]), batch[:, 1:]) * mask
        return ce.sum() / mask.sum(), mask.sum()

    first = next(iter(batches()))
    _, gradients = nn.value_and_grad(model, loss)(model, *first)
    gradients = {k: np.array(v) for k, v in tree_flatten(gradients)}
    kinds = {"adam": optim.Adam, "adamw": optim.AdamW, "sgd": optim.SGD}
    seen = Losses()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArgs(batch_size=BATCH, iters=ITERATIONS, steps_per_report=1, steps_per_eval=1000,
                                 steps_per_save=1000, adapter_file=str(Path(scratch) / "adapters.safetensors"))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # its progress bars
            train(model, kinds[optimizer](learning_rate=rate), rows, None, arguments, loss=loss, iterate_batches=batches,
                  training_callback=seen)
    return seen.values, gradients


def run_peft(run, rows, offsets, order, factors, config, weights, scratch):
    _, _, kind, _, rank, alpha, rslora, keys, _, rate, _ = run
    with float64.everything(), delta.no_float32():
        model = get_peft_model(build(config, weights, scratch), LoraConfig(
            task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, use_rslora=rslora, use_dora=kind == "dora",
            target_modules=[key.rsplit(".", 1)[-1] for key in keys]))
        model.train()
        places = {}
        for key, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            path = key.removeprefix("base_model.model.")
            for part, leaf in ((".lora_A.default.weight", ".lora_a"), (".lora_B.default.weight", ".lora_b"),
                               (".lora_magnitude_vector.default.weight", ".m")):
                if path.endswith(part):
                    name = path.removesuffix(part) + leaf
                    value = factors[name] if leaf == ".m" else factors[name].T
                    parameter.data = torch.tensor(value.astype(np.float64))
                    places[name] = parameter
        if places.keys() != factors.keys():
            raise SystemExit(f"peft trains {sorted(places.keys() ^ factors.keys())[:4]} otherwise")
        optimizer = torch.optim.Adam(places.values(), lr=rate)
        losses, gradients = [], None
        for b in order:
            optimizer.zero_grad()
            total, scored = 0, 0
            for j in range(b * BATCH, (b + 1) * BATCH):
                tokens = torch.tensor(rows[j][None].astype(np.int64))
                logits = model(tokens[:, :-1], use_cache=False).logits[0]
                each = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
                first = max(offsets[j] - 1, 0)
                total = total + each[first:].sum()
                scored += len(each) - first
            mean = total / scored
            mean.backward()
            losses.append(mean.item())
            if gradients is None:
                gradients = {name: p.grad.numpy().astype(np.float32) if name.endswith(".m") else
                             np.ascontiguousarray(p.grad.numpy().T.astype(np.float32)) for name, p in places.items()}
            optimizer.step()
    return losses, gradients


def make_run(name, folder, scratch):
    run = RUNS[name]
    maker, base, kind, layers, rank, scale, rslora, keys, optimizer, rate, _ = run
    config, weights = text_of(*base_weights(base))
    random, rows, offsets, order = begin(name, weights, run)
    factors = factors_of(random, weights, paths_of(config, weights, keys, layers), kind, rank)
    if maker == "mlx":
        losses, gradients = run_mlx(run, rows, offsets, order, factors)
    else:
        losses, gradients = run_peft(run, rows, offsets, order, factors, config, weights, scratch)
        scale = scale if rslora else scale / rank
    tensors = {"tokens": np.concatenate(rows), "lengths": np.array([len(row) for row in rows], np.int32),
               "offsets": np.array(offsets, np.int32), "order": np.array(order, np.int32),
               "losses": np.array(losses, np.float64)}
    tensors |= factors | {"gradient." + key: value for key, value in gradients.items()}
    write_safetensors(folder / "golden.safetensors", tensors)
    print(f"{name:20} {(folder / 'golden.safetensors').stat().st_size // 1024:4} KiB  "
          f"loss {losses[0]:.4f} -> {losses[-1]:.4f}", flush=True)
    return {"base": base, "kind": kind, "num_layers": layers, "rank": rank, "scale": scale, "rslora": rslora,
            "keys": keys, "optimizer": optimizer.removesuffix("_corrected"),
            "bias_correction": optimizer.endswith("_corrected"), "learning_rate": rate, "batch_size": BATCH}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=GOLDENS / "training")
    parser.add_argument("--only", help="one run, for work on this script")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.only:
        with tempfile.TemporaryDirectory() as scratch:
            make_run(arguments.only, arguments.out / arguments.only, Path(scratch))
        return 0
    make_optimizers(arguments.out)
    make_schedules(arguments.out)
    with tempfile.TemporaryDirectory() as scratch:
        write_json(arguments.out / "cases.json",
                   {name: make_run(name, arguments.out / name, Path(scratch)) for name in RUNS})
    return 0


if __name__ == "__main__":
    sys.exit(main())
