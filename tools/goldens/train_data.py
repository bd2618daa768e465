"""Golden rows and batches of mlx-lm's training data, for tests/train/data_golden_test.cpp.

    python tools/goldens/train_data.py --out tests/data/goldens/train_data.json

Tokenizes rows of every format with mlx_lm.tuner.datasets, the tokenizer of tests/data/apps/tiny with <think> and </think> added, and real
chat templates; cuts rows of known lengths into batches with mlx_lm.tuner.trainer.iterate_batches. Two of its defects are undone, and
only here: an empty block of thoughts that the template puts before an answer belongs to the masked prompt, and the padding token after a
row is not scored. Needs `mlx-lm` and `transformers`.
"""
import argparse
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tuner.datasets import create_dataset
from mlx_lm.tuner.trainer import iterate_batches
from transformers import PreTrainedTokenizerFast

from common import REPOSITORY

TINY = REPOSITORY / "tests" / "data" / "apps" / "tiny"
TEMPLATES = REPOSITORY / "tests" / "data" / "text" / "templates"
EMPTY_THOUGHTS = "<think>\n\n</think>\n\n"
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}]
CHATS = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, you."}]},
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"},
                  {"role": "assistant", "content": "2"}, {"role": "user", "content": "Sure?"},
                  {"role": "assistant", "content": "Yes. Grüße 🐝"}]},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]},
]
THOUGHTFUL = {"messages": [{"role": "user", "content": "Why?"},
                           {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nBecause."}]}
CALLING = {"messages": [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "5"}], "tools": TOOLS}
COMPLETIONS = [{"prompt": "Say it", "completion": "It."}, {"prompt": "Again\nplease", "completion": " twice "}]
TEXTS = [{"text": "A plain text."}, {"text": "ends by itself<|im_end|>"}, {"text": "<|im_start|>user\nHi<|im_end|>\n"}]


def tokenizer(template):
    data = json.loads((TINY / "tokenizer.json").read_text())
    last = max(token["id"] for token in data["added_tokens"])
    for number, text in enumerate(("<think>", "</think>"), 1):
        data["added_tokens"].append({**data["added_tokens"][0], "id": last + number, "content": text, "special": False})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(json.dumps(data))
        config = json.loads((TINY / "tokenizer_config.json").read_text())
        plain = PreTrainedTokenizerFast(tokenizer_file=str(path), bos_token=config["bos_token"], eos_token=config["eos_token"])
    plain.chat_template = template or config["chat_template"]
    return TokenizerWrapper(plain)


def is_prefix(words, row, ids, offset):
    """Whether the masked prompt is what the row begins with. mlx-lm masks by its length alone: with Qwen3's template, which renders an
    answer before the last question in another way than after it, that is some place in the row."""
    messages = row.get("messages") or [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": ""}]
    prompt = words.apply_chat_template(messages[:-1], tools=row.get("tools"), return_dict=False,
                                       add_generation_prompt=messages[-1]["role"] == "assistant")
    return list(prompt) == ids[:offset]


def rows(name, template, data, masks):
    words = tokenizer(template)
    out = []
    for mask in masks:
        made = create_dataset(data, words, SimpleNamespace(mask_prompt=mask))
        for index, row in enumerate(data):
            ids, offset = made.process(row)
            ids = [int(i) for i in ids]
            rest = words.decode(ids[offset:])
            if mask and not is_prefix(words, row, ids, offset):
                continue
            skipped = 0
            if mask and rest.startswith(EMPTY_THOUGHTS):
                while words.decode(ids[offset:offset + skipped]) != EMPTY_THOUGHTS:
                    skipped += 1
            out.append({"template": name, "row": row, "mask": mask, "kind": type(made).__name__, "index": index, "tokens": ids,
                        "offset": offset, "first_scored": max(1, offset + skipped)})
    return out


def batches():
    """Lengths with many ties, five batches of four; masks of 0 to 3 tokens."""
    draw = np.random.default_rng(5)
    lengths = [int(n) for n in draw.integers(2, 12, 20)]
    offsets = [int(n) for n in draw.integers(0, 4, 20)]
    data = [([100 * i + k for k in range(n)], min(o, n - 1)) for i, (n, o) in enumerate(zip(lengths, offsets))]
    groups = []
    for batch, spans in iterate_batches(data, batch_size=4, max_seq_length=2048, seed=1):
        batch, spans = np.array(batch), np.array(spans)
        steps = np.arange(1, batch.shape[1])
        mask = (steps >= spans[:, :1]) & (steps <= spans[:, 1:] - 1)
        groups.append({"rows": [int(row[0]) // 100 for row in batch], "scored": int(mask.sum()),
                       "targets": [int(t) for row, scored in zip(batch[:, 1:], mask) for t in row[scored]]})
    groups.sort(key=lambda group: (max(lengths[i] for i in group["rows"]), group["rows"]))
    return {"lengths": lengths, "offsets": [o for _, o in data], "batch_size": 4, "groups": groups}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    read = {"tiny": None}
    for name in ("Qwen-Qwen3-0.6B", "Qwen-Qwen2.5-7B-Instruct"):
        read[name] = (TEMPLATES / f"{name}.jinja").read_text()
    cases = []
    for name, template in read.items():
        cases += rows(name, template, CHATS, (False, True))
        cases += rows(name, template, COMPLETIONS, (False, True))
    cases += rows("tiny", None, TEXTS, (False,))
    cases += rows("Qwen-Qwen3-0.6B", read["Qwen-Qwen3-0.6B"], [THOUGHTFUL], (False, True))
    for name in ("Qwen-Qwen3-0.6B", "Qwen-Qwen2.5-7B-Instruct"):
        cases += rows(name, read[name], [CALLING], (False, True))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases)
    args.out.write_text('{"rows":[\n' + lines + '\n],\n"batches":' + json.dumps(batches()) + "}\n")


if __name__ == "__main__":
    main()
