#!/usr/bin/env python3
"""Measures OpenVINO GenAI on a GGUF file. Runs in the environment of that peer; worker.py says what comes in and goes out.
The rates come from its own counters: time to the first token for a prompt, time per output token after that.
"""
from importlib.metadata import version

import numpy as np
import openvino as ov
import openvino_genai as genai
import worker


class OpenVino:
    def __init__(self, job):
        self.pipeline = genai.LLMPipeline(job["model"], "CPU", INFERENCE_NUM_THREADS=job["threads"])
        self.facts = {"openvino-genai": version("openvino-genai"), "openvino": version("openvino")}

    def metrics(self, prompt, generated):
        ids = np.array([worker.random_tokens(prompt)], dtype=np.int64)
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = generated, True, False
        return self.pipeline.generate(inputs, config).perf_metrics

    def run(self, case):
        if case["rows"] > 1 or (case["n_prompt"] > 0 and case["depth"] > 0):
            raise SystemExit("[openvino-genai] case: expected one row, and a prompt from position 0, got " + case["name"])
        self.metrics(8, 2)
        if case["n_prompt"] > 0:
            rate = case["n_prompt"] / (self.metrics(case["n_prompt"], 1).get_ttft().mean / 1000)
        else:
            rate = 1000 / self.metrics(max(1, case["depth"]), case["n_gen"] + 1).get_tpot().mean
        return [{"variant": "", "samples_ts": [rate]}]


if __name__ == "__main__":
    worker.main(OpenVino)
