"""Makes tests/data/goldens/sampler.json: logits before and after transformers' own logits processors, in the engine's documented order.

Run with transformers and torch installed: python tools/goldens/sampler.py
Masked entries are null. Presence and frequency penalties (OpenAI's, absent from transformers) are written out below.
"""
import argparse
import json
from pathlib import Path

import torch
from transformers.generation import logits_process as lp

OUT = Path(__file__).resolve().parents[2] / "tests" / "data" / "goldens" / "sampler.json"
VOCAB = 40


def processors(config, prompt_size):
    eos = config.get("eos", [])
    if config.get("bias"):
        yield lp.SequenceBiasLogitsProcessor([[[int(i)], b] for i, b in config["bias"].items()])
    if "repetition_penalty" in config:
        yield lp.RepetitionPenaltyLogitsProcessor(config["repetition_penalty"])
    if "presence_penalty" in config or "frequency_penalty" in config:
        def openai(ids, scores):
            counts = torch.bincount(ids[0, prompt_size:], minlength=VOCAB)
            return scores - (counts > 0) * config.get("presence_penalty", 0.0) - counts * config.get("frequency_penalty", 0.0)
        yield openai
    if "no_repeat_ngram" in config:
        yield lp.NoRepeatNGramLogitsProcessor(config["no_repeat_ngram"])
    if "min_length" in config:
        yield lp.MinLengthLogitsProcessor(config["min_length"], eos)
    if "min_new_tokens" in config:
        yield lp.MinNewTokensLengthLogitsProcessor(prompt_size, config["min_new_tokens"], eos)
    if "suppressed" in config:
        yield lp.SuppressTokensLogitsProcessor(config["suppressed"])
    if "temperature" in config:
        yield lp.TemperatureLogitsWarper(config["temperature"])
    if "top_k" in config:
        yield lp.TopKLogitsWarper(config["top_k"])
    if "top_p" in config:
        yield lp.TopPLogitsWarper(config["top_p"])
    if "min_p" in config:
        yield lp.MinPLogitsWarper(config["min_p"])


CONFIGS = [
    {},
    {"temperature": 0.7},
    {"top_k": 5}, {"top_k": 1000}, {"top_p": 0.9}, {"top_p": 0.3}, {"top_p": 0.01}, {"min_p": 0.1}, {"min_p": 0.5},
    {"temperature": 1.7, "top_k": 12, "top_p": 0.8, "min_p": 0.05},
    {"temperature": 0.6, "top_p": 0.95},
    {"repetition_penalty": 1.3}, {"repetition_penalty": 0.8},
    {"presence_penalty": 0.6, "frequency_penalty": 0.4}, {"frequency_penalty": -0.5},
    {"no_repeat_ngram": 1}, {"no_repeat_ngram": 2}, {"no_repeat_ngram": 3},
    {"min_length": 100, "eos": [3, 7]}, {"min_length": 2, "eos": [3, 7]},
    {"min_new_tokens": 50, "eos": [3]}, {"min_new_tokens": 1, "eos": [3]},
    {"suppressed": [0, 5, 39]}, {"bias": {"1": 2.5, "8": -4.0}},
    {"bias": {"4": 3.0}, "repetition_penalty": 1.2, "presence_penalty": 0.5, "no_repeat_ngram": 2, "min_new_tokens": 30, "eos": [2, 9],
     "suppressed": [11, 12], "temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    torch.manual_seed(20)
    cases = []
    for index, config in enumerate(CONFIGS):
        for kind in range(2):
            logits = torch.randn(1, VOCAB) * (3.0 if kind == 0 else 1.0)
            if kind == 1:
                logits = (logits * 4).round() / 4  # ties
            prompt = torch.randint(0, 6, (7,)).tolist()
            output = torch.randint(0, 6, (5,)).tolist()
            if kind == 1 and "top_p" in config:
                logits += torch.arange(VOCAB) * 1e-3  # transformers breaks ties in top-p by an unstable sort
            ids = torch.tensor([prompt + output])
            scores = logits.clone()
            for processor in processors(config, len(prompt)):
                scores = processor(ids, scores)
            cases.append({"config": config, "prompt": prompt, "output": output, "logits": logits[0].tolist(),
                          "processed": [None if v == -float("inf") else v for v in scores[0].tolist()]})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text('{"maker":"tools/goldens/sampler.py","cases":[\n' + lines + "\n]}\n")


if __name__ == "__main__":
    main()
