"""Golden ids of Hugging Face tokenizers, as one hash per block of texts, for tests/text/tokenizer_golden_test.cpp.

    python tools/goldens/text_tokens.py --tokenizers DIR --out tests/data/text/tokens

DIR holds one folder per tokenizer with its tokenizer.json (tools/fetch_tokenizers.sh fills it). Needs `tokenizers`. The texts come from a
generator that exists twice, here and in tests/text/text_generator.h, byte for byte the same; a hash per block says where to look.
"""
import argparse
import json
import pathlib
import unicodedata

import tokenizers
from tokenizers import Tokenizer

MASK = (1 << 64) - 1
FAMILIES = ["qwen3", "llama3_1", "gemma3", "gpt_oss", "smollm2", "gemma4", "qwen3_5", "mistral", "cl100k", "deepseek_v3"]
# Where tokenizer_config.json has an `add_bos_token` that tokenizer.json does not carry out: transformers 4's Llama class puts it first.
FIRST = {"deepseek_v3": [0]}
CODE_POINTS_PER_BLOCK = 16384
LINES = 100_000
LINES_PER_BLOCK = 2_000
BYTE_STRINGS = 20_000
BYTE_STRINGS_PER_BLOCK = 2_000


class Lcg:
    """Knuth's MMIX generator; the low bits are poor, so the high ones are used."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & MASK
        return (self.state >> 33) % n


WORDS = ("the of and to in is that for it with as was on be at by this have from or had not are but what all were when we there can "
         "an your which their said if do will each about how up out them then she many some so these would other into has more her "
         "two like him see time could no make than first been its who now people my made over did down only way find use may water "
         "don't it's we're I'll they've you'd can't HELLO World iPhone eBay naïve café résumé Zürich łódź smörgåsbord").split(" ")
PIECES = ["日本語", "中文字符", "한국어", "русский", "العربية", "עברית", "ελληνικά", "हिन्दी", "ไทย", "Tiếng Việt", " Việt", "e\u0301",
          "\u1112\u1161\u11ab", "ﬁ", "①", "½", "Å", "👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "\u200b", "\u00a0", "\u3000", "\ufeff", "\t", "\r\n", "\n\n",
          "   ", "        ", "0", "42", "1234567890", "3.14159", "1e-10", "0x7fff", "$1,234.56", "50%", "==", "!=", "->", "::", "//", "/*",
          "*/", "#include <a.h>", "def f(x):", "return x+1;", "{}", "[]", "()", "...", "!!!", "???", "--", "—", "“q”", "'", "\"", "`",
          "<b>", "</p>", "https://example.org/a?b=c&d=e", "user@example.com", "\\n", "\\u0041", "<0x41>", "<0xE4>", "▁", "▁▁a", "Ġ", "Ċ",
          "<think>", "</think>", "<tool_call>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<bos>", "<eos>",
          "<start_of_turn>", "<s>", "</s>", "[INST]", "\x00", "\x07", "\x7f"]


def line(rng):
    parts = []
    for _ in range(1 + rng.below(16)):
        kind = rng.below(8)
        if kind < 4:
            parts.append(WORDS[rng.below(len(WORDS))])
        elif kind < 6:
            parts.append(PIECES[rng.below(len(PIECES))])
        elif kind == 6:
            parts.append(chr(0x20 + rng.below(0x2000 - 0x20)))
        else:
            parts.append(chr(0x61 + rng.below(26)) * (1 + rng.below(20)))
        if rng.below(4) != 0:
            parts.append(" ")
    return "".join(parts)


def byte_string(rng):
    return bytes(rng.below(256) for _ in range(rng.below(64)))


class Fnv:
    """FNV-1a over the ids as 32-bit little-endian words, with a mark after each text."""

    def __init__(self):
        self.value = 0xCBF29CE484222325

    def word(self, word):
        for shift in (0, 8, 16, 24):
            self.value = ((self.value ^ ((word >> shift) & 0xFF)) * 0x100000001B3) & MASK

    def text(self, ids):
        for token in ids:
            self.word(token)
        self.word(0xFFFFFFFF)


def hash_of(tokenizer, texts, first):
    fnv = Fnv()
    for encoding in tokenizer.encode_batch(texts, add_special_tokens=True):
        fnv.text(first + encoding.ids)
    return f"{fnv.value:016x}"


def code_points(first, count):
    for code in range(first, min(first + count, 0x110000)):
        if not 0xD800 <= code <= 0xDFFF:
            yield chr(code)


def goldens(tokenizer, beginning):
    result = {"alone": [], "in_context": [], "lines": [], "bytes": []}
    for first in range(0, 0x110000, CODE_POINTS_PER_BLOCK):
        characters = list(code_points(first, CODE_POINTS_PER_BLOCK))
        result["alone"].append(hash_of(tokenizer, characters, beginning))
        result["in_context"].append(hash_of(tokenizer, [f"a{c} {c}{c}1" for c in characters], beginning))
    rng = Lcg(1)
    for _ in range(0, LINES, LINES_PER_BLOCK):
        result["lines"].append(hash_of(tokenizer, [line(rng) for _ in range(LINES_PER_BLOCK)], beginning))
    rng = Lcg(2)
    for _ in range(0, BYTE_STRINGS, BYTE_STRINGS_PER_BLOCK):
        texts = [byte_string(rng).decode("utf-8", errors="replace") for _ in range(BYTE_STRINGS_PER_BLOCK)]
        result["bytes"].append(hash_of(tokenizer, texts, beginning))
    return result


def check_made(name, folder):
    """Files that were made from a vocabulary: their settings are those of transformers' own class, their ids llama.cpp's."""
    from transformers.models.gemma.tokenization_gemma import GemmaTokenizer
    from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer

    theirs = json.loads({"gemma4": GemmaTokenizer, "qwen3_5": Qwen3_5Tokenizer}[name]().backend_tokenizer.to_str())
    ours = json.loads((folder / "tokenizer.json").read_text())
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if ours[part] != theirs[part]:
            raise SystemExit(f"{name}: {part}: expected {theirs[part]}, got {ours[part]}")
    for key in theirs["model"].keys() - {"vocab", "merges"}:
        if (ours["model"][key] or None) != (theirs["model"][key] or None):
            raise SystemExit(f"{name}: model.{key}: expected {theirs['model'][key]}, got {ours['model'][key]}")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for case in json.loads((folder / "llama_cpp.json").read_text()):
        if name == "qwen3_5" and unicodedata.normalize("NFC", case["text"]) != case["text"]:
            continue  # llama.cpp does not normalize
        if tokenizer.encode(case["text"], add_special_tokens=False).ids != case["ids"]:
            raise SystemExit(f"{name}: {case['text']!r}: expected llama.cpp's ids {case['ids']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--only", choices=FAMILIES)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in [args.only] if args.only else FAMILIES:
        if name in ("gemma4", "qwen3_5"):
            check_made(name, args.tokenizers / name)
        tokenizer = Tokenizer.from_file(str(args.tokenizers / name / "tokenizer.json"))
        result = {"oracle": f"tokenizers {tokenizers.__version__}", **goldens(tokenizer, FIRST.get(name, []))}
        (args.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(name, "done")


if __name__ == "__main__":
    main()
