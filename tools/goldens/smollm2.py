"""SmolLM2-135M-Instruct against transformers' model.double(): logits of real text, greedy answers, perplexity.

    smollm2.py --gguf FILE [--model DIR] --out DIR [--devices cpu,ref] [--text FILE]

The reference is computed from the GGUF, decoded here, and kept in --out for the next run. With --model (the directory
that `bumblebee convert FILE DIR` made) the directory's weights must be those of the GGUF exactly, its tokenizer must
give the same ids, and the program is measured against the reference: --out gets fidelity.json and fidelity.md.
Exits 1 where a weight or an id differs or `ref` is further off than 1e-5.
"""
import argparse
import json
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import tokenizers
import torch

import float64
import program
from common import read_safetensors, write_json, write_safetensors
from smollm2_source import Source, decode_directory

HERE = Path(__file__).resolve().parent
WINDOW = 512  # tokens: of the logits that are compared, and of each perplexity window
WINDOWS = 8
ANSWER = 64
REF_BOUND = 1e-5
CONFIG_KEYS = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
               "num_key_value_heads", "max_position_embeddings", "rope_theta", "rms_norm_eps", "vocab_size",
               "tie_word_embeddings")


def text_of(path, tokenizer):
    """A prefix of the text that is exactly WINDOWS whole windows, and its ids."""
    whole = tokenizer.encode(path.read_text(), add_special_tokens=False)
    count = WINDOW * WINDOWS
    if len(whole.ids) < count:
        raise SystemExit(f"{path}: {len(whole.ids)} tokens, {count} are needed")
    text = path.read_text()[:whole.offsets[count - 1][1]]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if ids != whole.ids[:count]:
        raise SystemExit(f"{path}: the prefix is tokenized differently; use another text")
    return text, np.array(ids, np.int32)


def negative_log_likelihoods(logits, ids):
    """-ln p of the ids 1.. of one window, in float64."""
    rows = logits[:-1].astype(np.float64)
    top = rows.max(-1)
    return top + np.log(np.exp(rows - top[:, None]).sum(-1)) - rows[np.arange(len(rows)), ids[1:]]


def greedy(model, draft_model, prompt, stop):
    """Ids of the answer, and for each the gap between the two largest logits.

    A float32 model drafts and one float64 pass judges the whole draft: the ids are those of float64 alone, several
    times sooner than one float64 step per token.
    """
    ids, gaps = [], []
    while len(ids) < ANSWER and ids[-1:] != [stop]:
        step, past, draft = list(prompt) + ids, None, []
        with torch.no_grad():
            while len(ids) + len(draft) < ANSWER and draft[-1:] != [stop]:
                out = draft_model(torch.tensor([step]), past_key_values=past, use_cache=True, logits_to_keep=1)
                past = out.past_key_values
                draft.append(int(out.logits[0, -1].argmax()))
                step = draft[-1:]
        known = list(prompt) + ids
        judged = float64.logits(model, known + draft[:-1], widen=False)[len(known) - 1:]
        for row, drafted in zip(judged, draft):
            two = np.sort(np.partition(row, -2)[-2:])
            ids.append(int(row.argmax()))
            gaps.append(float(two[1] - two[0]))
            if ids[-1] != drafted:
                break
    return ids, gaps


def make_reference(source, weights, ids, prompts, kept):
    """Kept in a file after each part: on a busy machine the whole takes minutes, and a next run goes on from there."""
    checksum = 0
    for name in sorted(weights):
        checksum = zlib.crc32(weights[name].tobytes(), checksum)
    checksum = zlib.crc32(repr((ids.tolist(), prompts)).encode(), checksum)
    reference = {"checksum": np.array([checksum], np.int64)}
    if kept.exists() and (old := read_safetensors(kept))["checksum"][0] == checksum:
        reference = old
    if f"answer.{len(prompts) - 1}" in reference:
        return reference
    with tempfile.TemporaryDirectory() as scratch:
        write_json(Path(scratch) / "config.json", source.config)
        model = float64.build(scratch, weights, widen=False)
        draft_model = float64.build(scratch, weights, double=False)
    if "nll" not in reference:
        sums = []
        for first in range(0, len(ids), WINDOW):
            window = ids[first:first + WINDOW]
            logits = float64.logits(model, window.tolist(), widen=False)
            sums.append(negative_log_likelihoods(logits, window))
            if first == 0:
                reference["logits"] = logits.astype(np.float32)
                reference["logits_rms"] = np.sqrt(np.mean(logits * logits)).reshape(1)
            print(f"reference: {first + WINDOW} of {len(ids)} tokens", flush=True)
        reference["nll"] = np.concatenate(sums)
        write_safetensors(kept, reference)
    for i, prompt in enumerate(prompts):
        if f"answer.{i}" not in reference:
            answer, gaps = greedy(model, draft_model, prompt, source.config["eos_token_id"])
            reference |= {f"answer.{i}": np.array(answer, np.int32), f"gaps.{i}": np.array(gaps)}
            write_safetensors(kept, reference)
            print(f"reference: answer {i + 1} of {len(prompts)}", flush=True)
    return reference


def same_number(a, b):
    """Equal, or the same number in f32, which is how the GGUF holds its floats."""
    return a == b or isinstance(b, float) and isinstance(a, (int, float)) and np.float32(a) == np.float32(b)


def check_directory(folder, source, weights, tokenizer, texts):
    """Problems of the converted directory, each in a sentence."""
    config, converted = decode_directory(folder)
    wrong = [f"config.json has {key} {config.get(key)!r}, the GGUF {source.config[key]!r}"
             for key in CONFIG_KEYS if not same_number(config.get(key), source.config[key])]
    wrong += [f"{name} is {'missing' if name in weights else 'not in the GGUF'}"
              for name in sorted(set(weights) ^ set(converted))]
    for name in sorted(set(weights) & set(converted)):
        if not np.array_equal(converted[name], weights[name]):
            same_shape = converted[name].shape == weights[name].shape
            gap = np.abs(converted[name] - weights[name]).max() if same_shape else "its shape"
            wrong.append(f"{name} differs from the GGUF by up to {gap}")
    theirs = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    for text in texts:
        if theirs.encode(text, add_special_tokens=False).ids != tokenizer.encode(text, add_special_tokens=False).ids:
            wrong.append(f"tokenizer.json gives other ids for {text[:60]!r}")
    return wrong


def compare_logits(got, reference):
    want = reference["logits"].astype(np.float64)
    gap = got.astype(np.float64) - want
    size = float(reference["logits_rms"][0])

    def log_softmax(rows):
        rows = rows.astype(np.float64) - rows.max(-1, keepdims=True)
        return rows - np.log(np.exp(rows).sum(-1, keepdims=True))

    p, q = log_softmax(want), log_softmax(got)
    divergence = (np.exp(p) * (p - q)).sum(-1)
    return {"max_relative": float(np.abs(gap).max() / size), "rms_relative": float(np.sqrt(np.mean(gap * gap)) / size),
            "kl_mean": float(divergence.mean()), "kl_max": float(divergence.max()),
            "same_top": int((want.argmax(-1) == got.argmax(-1)).sum()), "positions": len(want)}


def compare_answers(arguments, device, prompts, reference):
    same, notes = 0, []
    for i, prompt in enumerate(prompts):
        want, gaps = reference[f"answer.{i}"].tolist(), reference[f"gaps.{i}"]
        got = program.generate(arguments.binary, arguments.model, prompt, ANSWER, device)["tokens"]
        stop = want[-1:] if len(want) < ANSWER else []
        if got in (want, want[:len(want) - len(stop)]):  # the end token itself may be left out of the list
            same += 1
            continue
        at = next((n for n, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
        gap = float(gaps[at]) if at < len(gaps) else None
        notes.append({"prompt": prompt, "first_difference": at, "expected": want[at:at + 1], "got": got[at:at + 1],
                      "gap_of_the_reference": gap})
    return {"prompts": len(prompts), "tokens_each": ANSWER, "identical": same, "differences": notes}


def table(report):
    text, rows = report["text"], [
        "| | reference | " + " | ".join(report["devices"]) + " |",
        "|---|---|" + "---|" * len(report["devices"])]

    def row(name, first, cell):
        rows.append(f"| {name} | {first} | " + " | ".join(cell(d) for d in report["devices"].values()) + " |")

    row(f"logits of {WINDOW} tokens, largest error / rms of the logits", "0",
        lambda d: f"{d['logits']['max_relative']:.2e}")
    row("same, rms error", "0", lambda d: f"{d['logits']['rms_relative']:.2e}")
    row("KL divergence per token, mean (nats)", "0", lambda d: f"{d['logits']['kl_mean']:.2e}")
    row("same most likely token", f"{WINDOW}", lambda d: f"{d['logits']['same_top']}")
    row(f"greedy answers identical over {ANSWER} tokens", f"{len(report['prompts'])}",
        lambda d: f"{d['answers']['identical']}")
    row(f"perplexity of {text['tokens']} tokens, windows of {WINDOW}", f"{report['perplexity']:.6f}",
        lambda d: f"{d['perplexity']['perplexity']:.6f}")
    lines = [f"Text: the first {text['tokens']} tokens of `{text['file']}`. Perplexity: exp of the mean of -ln p over "
             f"positions 1..{WINDOW - 1} of each window, every window from an empty context.", "", *rows]
    for name, device in report["devices"].items():
        for note in device["answers"]["differences"]:
            gap = note["gap_of_the_reference"]
            apart = "not known" if gap is None else f"{gap:.2e} apart"
            lines += ["", f"{name}: {note['prompt']!r} differs from token {note['first_difference']} on; "
                      f"the reference's two largest logits there: {apart}."]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--text", type=Path, default=Path("/usr/share/common-licenses/GPL-3"))
    parser.add_argument("--devices", default="cpu,ref", help="comma-separated; empty: only check the directory")
    parser.add_argument("--binary", type=Path, default=program.BINARY)
    arguments = parser.parse_args()
    source = Source(arguments.gguf)
    tokenizer, weights = source.tokenizer(), source.weights()
    prompts = json.loads((HERE / "smollm2_prompts.json").read_text())
    chats = [source.chat(prompt) for prompt in prompts]
    chat_ids = [tokenizer.encode(chat, add_special_tokens=False).ids for chat in chats]
    text, ids = text_of(arguments.text, tokenizer)
    arguments.out.mkdir(parents=True, exist_ok=True)
    excerpt = arguments.out / "text.txt"
    excerpt.write_text(text)
    reference = make_reference(source, weights, ids, chat_ids, arguments.out / "reference.safetensors")
    report = {"text": {"file": str(arguments.text), "tokens": len(ids), "windows": WINDOWS},
              "perplexity": float(np.exp(reference["nll"].mean())), "nll_sum": float(reference["nll"].sum()),
              "tokens_scored": len(reference["nll"]),
              "prompts": [{"prompt": prompt, "ids": given, "answer": reference[f"answer.{i}"].tolist(),
                           "text": tokenizer.decode(reference[f"answer.{i}"].tolist()),
                           "smallest_gap": float(reference[f"gaps.{i}"].min())}
                          for i, (prompt, given) in enumerate(zip(prompts, chat_ids))], "devices": {}}
    wrong = []
    if arguments.model:
        wrong = check_directory(arguments.model, source, weights, tokenizer, [text, *chats])
        print(f"converted directory: {len(weights)} tensors compared, {len(wrong)} problems", flush=True)
        for device in [d for d in arguments.devices.split(",") if d]:
            logits = program.logits(arguments.binary, arguments.model, ids[:WINDOW], device)
            report["devices"][device] = {
                "logits": compare_logits(logits, reference),
                "perplexity": program.perplexity(arguments.binary, arguments.model, excerpt, device),
                "answers": compare_answers(arguments, device, prompts, reference)}
            if device == "ref" and report["devices"][device]["logits"]["max_relative"] > REF_BOUND:
                wrong.append(f"ref is further than {REF_BOUND} from float64")
    report["problems"] = wrong
    write_json(arguments.out / "fidelity.json", report)
    (arguments.out / "fidelity.md").write_text(table(report))
    print(table(report), end="")
    for problem in wrong:
        print(f"problem: {problem}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
