"""Holds adapters that the program trained to their own projects: mlx-lm and peft load them and must give its logits.

--model is the base; --mlx and --peft are adapter directories of the two formats (`bumblebee train --format`). Logits of
some tokens of --text: the program's in exact precision, mlx-lm's in f32 on the stored weights, peft's in float64 on the
dequantized ones. Exits 1 where they differ by more than 2e-3 of the root mean square.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model
from peft import PeftModel
from tokenizers import Tokenizer

import float64
from adapters import base_weights, build
from common import errors, read_safetensors, widen
from program import BINARY, call

mx.set_default_device(mx.cpu)
FLOATS = (mx.float16, mx.bfloat16, mx.float32)


def ours(binary, model, adapter, tokens):
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "logits.safetensors"
        call(binary, "logits", "-m", model, "--tokens", ",".join(map(str, tokens)), "--adapter", adapter,
             "--precision", "exact", "-o", out)
        return widen(read_safetensors(out)["logits"])


def with_mlx(model, adapter, tokens):
    loaded, _ = load_model(model)
    loaded.update(tree_map(lambda v: v.astype(mx.float32) if v.dtype in FLOATS else v, loaded.parameters()))
    load_adapters(loaded, str(adapter))
    loaded.eval()
    return np.array(loaded(mx.array([tokens]))[0].astype(mx.float32))


def with_peft(model, adapter, tokens):
    config, weights = base_weights(model)
    with tempfile.TemporaryDirectory() as scratch:
        loaded = PeftModel.from_pretrained(build(config, weights, Path(scratch)), adapter)
        return float64.logits(loaded.to(dtype=next(loaded.base_model.parameters()).dtype).double().eval(), tokens)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--mlx", type=Path)
    parser.add_argument("--peft", type=Path)
    parser.add_argument("--text", type=Path, default=Path("/usr/share/common-licenses/Apache-2.0"))
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--binary", type=Path, default=BINARY)
    arguments = parser.parse_args()
    model = arguments.model.resolve()
    ids = Tokenizer.from_file(str(model / "tokenizer.json")).encode(arguments.text.read_text()).ids
    tokens = ids[:arguments.tokens]
    wrong = 0
    for who, adapter, run in (("mlx-lm", arguments.mlx, with_mlx), ("peft", arguments.peft, with_peft)):
        if adapter is None:
            continue
        config = json.loads((adapter / "adapter_config.json").read_text())
        gap = errors(ours(arguments.binary, model, adapter, tokens), run(model, adapter, tokens))
        kind = config.get("fine_tune_type") or config.get("peft_type")
        wrong += not gap[0] <= 2e-3
        print(f"{'ok' if gap[0] <= 2e-3 else 'DIFFERS':8}{who:7} {kind}: {len(tokens)} tokens, max {gap[0]:.1e} "
              f"rms {gap[1]:.1e} of the root mean square", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
