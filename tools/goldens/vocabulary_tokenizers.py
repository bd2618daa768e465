"""Writes tokenizer.json and tokenizer_config.json of Gemma 4 and of Qwen3.5's splitting from the vocabularies that llama.cpp tests with.

    python vocabulary_tokenizers.py MODELS DIRECTORY

MODELS is llama.cpp's folder `models`; DIRECTORY gets `gemma4` and `qwen3_5`, each with llama.cpp's texts and ids as `llama_cpp.json`. Gemma 4's
vocabulary is the real one; Qwen3.5's file there has the vocabulary of Qwen2, so that it is the splitting which is Qwen3.5's. Standard library
only, and independent of our own converter (src/io); text_tokens.py holds the settings to transformers' own classes.
"""
import json
import pathlib
import sys

from smollm2_tokenizer import CONTROL, USER_DEFINED, metadata

# llama.cpp's converter makes these ordinary tokens, to show them; in Hugging Face's file they are control tokens.
SHOWN = {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", "<|\"|>"}
QWEN3_5 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def added_tokens(tokens, kinds):
    return [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": kind == CONTROL or token in SHOWN}
            for i, (token, kind) in enumerate(zip(tokens, kinds))
            if kind in (CONTROL, USER_DEFINED) and not token.startswith("[PAD")]


def bpe(vocab, merges, **settings):
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
            "byte_fallback": False, "ignore_merges": False, **settings, "vocab": vocab, "merges": merges}


def gemma4(meta):
    tokens, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    bos, first = {"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "added_tokens": added_tokens(tokens, kinds),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": {"type": "TemplateProcessing", "single": [bos, first],
                           "pair": [bos, first, {"SpecialToken": {"id": "<bos>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                                                     {"type": "Fuse"}]},
        "model": bpe({token: i for i, token in enumerate(tokens)}, [merge.split(" ") for merge in meta["tokenizer.ggml.merges"]],
                     unk_token="<unk>", fuse_unk=True, byte_fallback=True),
    }


def qwen3_5(meta):
    tokens, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    added = added_tokens(tokens, kinds)
    first = added[0]["id"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": QWEN3_5}, "behavior": "Isolated", "invert": False}, byte_level]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": bpe({token: i for i, token in enumerate(tokens[:first])}, [merge.split(" ") for merge in meta["tokenizer.ggml.merges"]]),
    }


def llama_cpp(file):
    """Texts and ids of its own test; the file of texts ends each with a line end and a mark."""
    texts = file.with_name(file.name + ".inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    ids = [[int(word) for word in line.split()] for line in file.with_name(file.name + ".out").read_text().splitlines()]
    texts = texts[:len(ids)]
    if len(texts) != len(ids):
        raise SystemExit(f"{file}: expected as many texts as lines of ids, got {len(texts)} and {len(ids)}")
    return [{"text": text, "ids": line} for text, line in zip(texts, ids)]


def main():
    models, to = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    for name, stem, make in (("gemma4", "gemma-4", gemma4), ("qwen3_5", "qwen35", qwen3_5)):
        source = models / f"ggml-vocab-{stem}.gguf"
        meta = metadata(source)
        tokenizer = {"version": "1.0", "truncation": None, "padding": None, **make(meta)}
        config = {"tokenizer_class": "GemmaTokenizer" if name == "gemma4" else "Qwen2Tokenizer"}
        if name == "gemma4":
            config["chat_template"] = meta["tokenizer.chat_template"]
        for key, source_key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")):
            index = meta.get(f"tokenizer.ggml.{source_key}_token_id")
            if index is not None and not (name == "qwen3_5" and key == "bos_token"):
                config[key] = meta["tokenizer.ggml.tokens"][index]
        (to / name).mkdir(parents=True, exist_ok=True)
        (to / name / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False) + "\n", encoding="utf-8")
        (to / name / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        (to / name / "llama_cpp.json").write_text(json.dumps(llama_cpp(source), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
