#!/usr/bin/env python3
"""Measures mistral.rs through its Python package. Runs in the environment of that peer; worker.py says what comes in and goes
out. The rates are those that mistral.rs itself reports: it takes text, not tokens, and times prompt and generation apart.
"""
import os
import random
from importlib.metadata import version
from pathlib import Path

import mistralrs
import worker


class MistralRs:
    def __init__(self, job):
        path = Path(job["model"])
        which = mistralrs.Which.GGUF(quantized_model_id=str(path.parent), quantized_filename=path.name)
        self.runner = mistralrs.Runner(which=which, max_seqs=1, prefix_cache_n=0, token_source="none")
        self.facts = {"mistralrs": version("mistralrs"), "rayon_threads": os.environ.get("RAYON_NUM_THREADS", "default")}

    def usage(self, prompt, generated):
        # A letter and a space make one token each time: the vocabulary of write_gguf.py holds every pair of bytes.
        text = "".join(random.choice("abcdefghijklmnopqrstuvwxyz") + " " for _ in range(prompt))
        request = mistralrs.CompletionRequest(prompt=text, model="default", max_tokens=generated, temperature=0.0, ignore_eos=True)
        return self.runner.send_completion_request(request).usage

    def run(self, case):
        if case["rows"] > 1:
            raise SystemExit("[mistral.rs] rows: expected 1, got more: the rates it reports are those of one sequence")
        self.usage(8, 2)
        if case["n_prompt"] > 0:
            usage = self.usage(case["n_prompt"], 1)
            rate, tokens, wanted = usage.avg_prompt_tok_per_sec, usage.prompt_tokens, case["n_prompt"]
        else:
            usage = self.usage(max(1, case["depth"]), case["n_gen"])
            rate, tokens, wanted = usage.avg_compl_tok_per_sec, usage.completion_tokens, case["n_gen"]
        return [{"variant": "", "samples_ts": [rate], "tokens": tokens, "tokens_wanted": wanted}]


if __name__ == "__main__":
    worker.main(MistralRs)
