#!/usr/bin/env python3
"""Measures llama.cpp through llama-cpp-python's plain bindings of its C interface, the way llama-bench does: batches of random
tokens, logits of the last position of a prompt and of every generated token. Runs in the environment of that peer; worker.py
says what comes in and goes out. The job may choose "flash_attention": "both" (two variants), "on" or "off".
"""
import ctypes
import time
from importlib.metadata import version

import llama_cpp as c
import worker

BATCH = 512
FLASH = {"on": [("fa", 1)], "off": [("no fa", 0)], "both": [("no fa", 0), ("fa", 1)]}


class Context:
    """A context of `rows` sequences of `length` positions each, and a batch to fill."""

    def __init__(self, model, threads, rows, length, flash):
        params = c.llama_context_default_params()
        each = -(-length // 256) * 256  # llama.cpp rounds a sequence up to this
        params.n_ctx, params.n_seq_max = rows * each, rows
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        if hasattr(params, "flash_attn_type"):
            params.flash_attn_type = flash
        else:  # before 2025-09
            params.flash_attn = bool(flash)
        self.context = c.llama_init_from_model(model, params)
        if not self.context:
            raise SystemExit(f"[llama.cpp] a context of {params.n_ctx} positions: expected memory for it, got none")
        self.memory = c.llama_get_memory(self.context)
        self.batch = c.llama_batch_init(BATCH, 0, 1)

    def close(self):
        c.llama_batch_free(self.batch)
        c.llama_free(self.context)

    def decode(self, entries):
        """`entries`: (token, position, sequence, whether its logits are wanted) per row of the batch."""
        for i, (token, position, sequence, wanted) in enumerate(entries):
            self.batch.token[i], self.batch.pos[i], self.batch.logits[i] = token, position, wanted
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, sequence
        self.batch.n_tokens = len(entries)
        status = c.llama_decode(self.context, self.batch)
        if status != 0:
            raise SystemExit(f"[llama.cpp] llama_decode: expected 0, got {status}")

    def prompt(self, first, count):
        """Positions [first, first + count) of sequence 0."""
        for at in range(first, first + count, BATCH):
            end = min(at + BATCH, first + count)
            tokens = worker.random_tokens(end - at)
            self.decode([(token, at + i, 0, at + i + 1 == first + count) for i, token in enumerate(tokens)])
        c.llama_synchronize(self.context)

    def generate(self, first, steps, rows):
        """`steps` positions of each sequence, one step at a time."""
        for position in range(first, first + steps):
            self.decode([(token, position, row, True) for row, token in enumerate(worker.random_tokens(rows))])
            c.llama_synchronize(self.context)

    def fork(self, rows):
        """Gives the other sequences what sequence 0 holds."""
        for row in range(1, rows):
            c.llama_memory_seq_cp(self.memory, 0, row, -1, -1)

    def cut(self, length, rows):
        for row in range(rows):
            c.llama_memory_seq_rm(self.memory, row, length, -1)


class LlamaCpp:
    def __init__(self, job):
        self.threads, self.flash = job["threads"], FLASH[job.get("flash_attention", "both")]
        c.llama_backend_init()
        self.keep_log = c.llama_log_callback(lambda level, text, data: None)
        c.llama_log_set(self.keep_log, ctypes.c_void_p(0))
        params = c.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = c.llama_model_load_from_file(job["model"].encode(), params)
        if not self.model:
            raise SystemExit(f"[llama.cpp] {job['model']}: expected a model, got a file that does not load")
        self.facts = {"llama-cpp-python": version("llama-cpp-python"), "system": c.llama_print_system_info().decode().strip(),
                      "model_bytes": c.llama_model_size(self.model)}

    def sample(self, case, flash):
        rows, depth, gen = case["rows"], case["depth"], case["n_gen"]
        context = Context(self.model, self.threads, rows, depth + case["n_prompt"] + gen + 1, flash)
        try:
            return self.timed(context, case, rows, depth, gen)
        finally:
            context.close()

    @staticmethod
    def timed(context, case, rows, depth, gen):
        if depth > 0:
            context.prompt(0, depth)
            context.fork(rows)
        if case["n_prompt"] > 0:
            # A short prompt is its own warm-up; of a long one the first batch is.
            context.prompt(depth, min(BATCH, case["n_prompt"]))
            context.cut(depth, rows)
            start = time.perf_counter()
            context.prompt(depth, case["n_prompt"])
            return case["n_prompt"] / (time.perf_counter() - start)
        context.generate(depth, 1, rows)
        start = time.perf_counter()
        context.generate(depth + 1, gen, rows)
        return gen * rows / (time.perf_counter() - start)

    def run(self, case):
        return [{"variant": name, "samples_ts": [self.sample(case, flash)]} for name, flash in self.flash]


if __name__ == "__main__":
    worker.main(LlamaCpp)
