"""Holds the names that `bumblebee adapter convert --to mlx --base` writes to mlx-lm: its load_adapters must take every tensor.

Bases are goldens whose mlx-lm class has the text model as a part, and one whose class has not. Each adapter is made under
plain names; logits of some tokens under what was written must be the program's. Nothing is committed. Exits 1 where mlx-lm
refuses an adapter, leaves a tensor of it out, or computes something else.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model

from common import GOLDENS, errors, read_safetensors, widen, write_safetensors
from program import BINARY, call

mx.set_default_device(mx.cpu)
FLOATS = (mx.float16, mx.bfloat16, mx.float32)
KEYS = ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"]
CASES = ["delta/qwen3_5", "delta/qwen3_5_moe_4bit", "gemma/gemma3_packaged_4bit", "gemma4", "dense/mistral3", "models/qwen3"]
RANK, SCALE = 2, 2.0
LIMIT = 1e-2  # names are asked about; mlx-lm computes gated delta nets in chunks of f32


def with_vocabulary(source, folder):
    """mlx-lm takes the size of Gemma 3's vocabulary from outside text_config."""
    config = json.loads((source / "config.json").read_text())
    config["vocab_size"] = config["text_config"]["vocab_size"]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").symlink_to(source / "model.safetensors")
    return folder


def packaged_gemma4(folder):
    """The golden of a text model as gemma4.py of mlx-lm has it."""
    source = GOLDENS / "gemma" / "gemma4_e_4bit"
    config = json.loads((source / "config.json").read_text())
    wrapped = {"model_type": "gemma4", "text_config": config, "vocab_size": config["vocab_size"]}
    if "quantization" in config:
        wrapped["quantization"] = config.pop("quantization")
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(wrapped))
    tensors = mx.load(str(source / "model.safetensors"))
    mx.save_safetensors(str(folder / "model.safetensors"),
                        {"language_model." + name: value for name, value in tensors.items()}, {"format": "mlx"})
    return folder


def sizes(model):
    """Outputs and inputs of the modules that KEYS name, by their plain names."""
    found = {}
    for name, module in model.named_modules():
        plain = name.removeprefix("language_model.")
        if plain.startswith("model.layers.") and any(plain.endswith("." + key) for key in KEYS):
            out, size = module.weight.shape
            found[plain] = (out, size * 32 // module.bits if "scales" in module else size)
    return found


def make_adapter(folder, modules, layers):
    random = np.random.default_rng(5)
    tensors = {}
    for name, (out, size) in modules.items():
        tensors[name + ".lora_a"] = random.normal(0, 0.1, (size, RANK)).astype(np.float32)
        tensors[name + ".lora_b"] = random.normal(0, 0.3, (RANK, out)).astype(np.float32)
    folder.mkdir()
    write_safetensors(folder / "adapters.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps({
        "fine_tune_type": "lora", "num_layers": layers,
        "lora_parameters": {"rank": RANK, "scale": SCALE, "dropout": 0.0, "keys": KEYS}}))


def check(binary, name, base, scratch):
    model, _ = load_model(base)
    model.update(tree_map(lambda v: v.astype(mx.float32) if v.dtype in FLOATS else v, model.parameters()))
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    plain = np.array(model(mx.array([tokens]))[0])
    make_adapter(scratch / "plain", sizes(model), len(model.layers))
    call(binary, "adapter", "convert", scratch / "plain", scratch / "written", "--to", "mlx", "--base", base)
    load_adapters(model, str(scratch / "written"))  # throws for a name that the model does not have
    model.eval()
    loaded = dict(tree_flatten(model.parameters()))
    written = mx.load(str(scratch / "written" / "adapters.safetensors"))
    missed = [key for key, value in written.items() if not mx.array_equal(loaded.get(key, mx.array(0)), value).item()]
    theirs = np.array(model(mx.array([tokens]))[0])
    call(binary, "logits", "-m", base, "--tokens", ",".join(map(str, tokens)), "--adapter", scratch / "written",
         "--precision", "exact", "-o", scratch / "logits.safetensors")
    gap = errors(widen(read_safetensors(scratch / "logits.safetensors")["logits"]), theirs)[0]
    change = errors(theirs, plain)[0]
    fine = not missed and gap <= LIMIT and change > 0.1
    print(f"{'ok' if fine else 'DIFFERS':8}{name}: {len(written)} tensors, {len(missed)} left out; change {change:.2g}, "
          f"max {gap:.1e} of the root mean square", flush=True)
    return fine


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=BINARY)
    arguments = parser.parse_args()
    fine = True
    for name in CASES:
        with tempfile.TemporaryDirectory() as scratch:
            scratch = Path(scratch)
            base = packaged_gemma4(scratch / "base") if name == "gemma4" else GOLDENS / name
            if "gemma3" in name:
                base = with_vocabulary(base, scratch / "base")
            fine = check(arguments.binary, name, base, scratch) and fine
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
