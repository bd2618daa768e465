#!/usr/bin/env python3
"""Measures mlx-lm on MLX's CPU backend, or on a CUDA card where the job's "device" is "gpu". Runs in the environment of that peer;
worker.py says what comes in and goes out.

MLX has no setting for the number of threads on a CPU: the caller confines the process to as many cores instead. Its quantized
product walks the rows of the activations one after another, so that a prompt costs about as many steps as it has tokens. Half
floats are several times slower there than f32 (a token of the 0.6B shape: 6 s in bf16, 0.8 s in f32 on an AVX2 machine), so
the activations, scales and biases are made f32 there: the fastest that this peer offers, with the same codes.
"""
import time
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import worker
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

CHUNK = 512


class Mlx:
    def __init__(self, job):
        cpu = job.get("device", "cpu") == "cpu"
        mx.set_default_device(mx.cpu if cpu else mx.gpu)
        self.variant = "f32" if cpu else "bf16"
        self.model, _ = load_model(Path(job["model"]))
        if cpu:
            self.model.set_dtype(mx.float32)
        mx.eval(self.model.parameters())
        self.facts = {"mlx-lm": version("mlx-lm"), "mlx": version("mlx"), "device": str(mx.default_device())}

    def tokens(self, case, columns):
        return mx.random.randint(0, worker.VOCAB, (case["rows"], columns))

    def feed(self, cache, tokens):
        """`tokens` [rows, columns] as mlx-lm's own generation feeds them: the keys and values of all but the last in chunks,
        then the logits of the last."""
        columns = tokens.shape[1]
        for at in range(0, columns - 1, CHUNK):
            self.model(tokens[:, at:min(at + CHUNK, columns - 1)], cache=cache)
            mx.eval([layer.state for layer in cache])
        mx.eval(self.model(tokens[:, columns - 1:], cache=cache))

    def sample(self, case):
        cache = make_prompt_cache(self.model)
        if case["depth"] > 0:
            self.feed(cache, self.tokens(case, case["depth"]))
        if case["n_prompt"] > 0:
            tokens = self.tokens(case, case["n_prompt"])
            mx.eval(tokens)
            start = time.perf_counter()
            self.feed(cache, tokens)
            return case["n_prompt"] / (time.perf_counter() - start)
        steps = [self.tokens(case, 1) for _ in range(case["n_gen"] + 1)]
        mx.eval(steps)
        self.feed(cache, steps.pop())  # the warm-up step
        start = time.perf_counter()
        for step in steps:
            self.feed(cache, step)
        return case["n_gen"] * case["rows"] / (time.perf_counter() - start)

    def run(self, case):
        # One token through all layers touches every weight; more would cost minutes here.
        self.feed(make_prompt_cache(self.model), self.tokens({"rows": 1}, 1))
        return [{"variant": self.variant, "samples_ts": [self.sample(case)]}]


if __name__ == "__main__":
    worker.main(Mlx)
