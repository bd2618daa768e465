"""Logits of a checkpoint directory from mlx-lm on the CPU, by default with every float widened to f32 (codes stay)."""
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map
from mlx_lm.utils import load_model

mx.set_default_device(mx.cpu)
FLOATS = (mx.float16, mx.bfloat16, mx.float32)


def mlx_logits(folder, tokens, widened=True):
    """[tokens, vocab] f32. `widened` False: in the dtypes of the file, as mlx-lm itself would run it."""
    model, _ = load_model(Path(folder))
    if widened:
        model.update(tree_map(lambda v: v.astype(mx.float32) if v.dtype in FLOATS else v, model.parameters()))
    return np.array(model(mx.array([[int(t) for t in tokens]]))[0].astype(mx.float32))
