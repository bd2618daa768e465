#!/usr/bin/env python3
"""Makes tests/data/apps/tiny: a complete little chat model, so that tests can run the program end to end.

Random weights (a fixed seed), a byte-level tokenizer with one token per byte, a ChatML template, and the same model as GGUF.
Needs only the standard library. Run from the repository's root: python3 tools/make_app_fixture.py
"""

import json
import os
import random
import struct

OUT = "tests/data/apps/tiny"
HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INTER, VOCAB = 64, 2, 4, 2, 16, 96, 288
CONTEXT = 32768  # so long that a test has time to interrupt an answer
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # ids 256, 257, 258
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def byte_letters():
    """GPT-2's printable stand-ins for the 256 bytes, in byte order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare, letters = 256, []
    for byte in range(256):
        if byte in plain:
            letters.append(chr(byte))
        else:
            letters.append(chr(spare))
            spare += 1
    return letters


def tensors():
    """Name -> (shape, values), in the order of the file."""
    draw = random.Random(7)
    out = {}

    def matrix(name, rows, columns, size=0.08):
        out[name] = ([rows, columns], [draw.gauss(0, size) for _ in range(rows * columns)])

    def norm(name):
        out[name] = ([HIDDEN], [1 + draw.gauss(0, 0.05) for _ in range(HIDDEN)])

    matrix("model.embed_tokens.weight", VOCAB, HIDDEN, 0.4)
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        norm(p + "input_layernorm.weight")
        matrix(p + "self_attn.q_proj.weight", HEADS * HEAD_DIM, HIDDEN)
        matrix(p + "self_attn.k_proj.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(p + "self_attn.v_proj.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(p + "self_attn.o_proj.weight", HIDDEN, HEADS * HEAD_DIM)
        norm(p + "post_attention_layernorm.weight")
        matrix(p + "mlp.gate_proj.weight", INTER, HIDDEN)
        matrix(p + "mlp.up_proj.weight", INTER, HIDDEN)
        matrix(p + "mlp.down_proj.weight", HIDDEN, INTER)
    norm("model.norm.weight")
    return out


def f16(values):
    return struct.pack(f"<{len(values)}e", *values)


def f32(values):
    return struct.pack(f"<{len(values)}f", *values)


def write_safetensors(path, weights):
    header, data = {}, b""
    for name, (shape, values) in weights.items():
        raw = f16(values)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def write_json(name, value):
    with open(os.path.join(OUT, name), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


def write_texts(letters):
    write_json("config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INTER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "vocab_size": VOCAB, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": True, "torch_dtype": "float16", "bos_token_id": 256, "eos_token_id": 258,
    })
    write_json("generation_config.json", {"bos_token_id": 256, "eos_token_id": [256, 258], "do_sample": False})
    added = [{"id": 256 + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, text in enumerate(CONTROL)]
    write_json("tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "vocab": {c: i for i, c in enumerate(letters)}, "merges": []},
    })
    write_json("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": CONTROL[0], "eos_token": CONTROL[2],
                                         "chat_template": TEMPLATE})


def gguf_text(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_value(value):
    """(type, bytes) of one metadata value."""
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return 8, gguf_text(value)
    kind = 5 if value and isinstance(value[0], int) else 8
    items = b"".join(struct.pack("<i", v) if kind == 5 else gguf_text(v) for v in value)
    return 9, struct.pack("<IQ", kind, len(value)) + items


def q4_0(values):
    out = b""
    for at in range(0, len(values), 32):
        block = values[at:at + 32]
        largest = max(block, key=abs)
        scale = struct.unpack("<e", struct.pack("<e", largest / -8 if largest else 1.0))[0] or 1.0
        codes = [min(15, max(0, int(v / scale + 8.5))) for v in block]
        out += struct.pack("<e", scale) + bytes(codes[i] | codes[i + 16] << 4 for i in range(16))
    return out


def permuted(values, heads, columns):
    """Rows of one attention matrix in the order in which GGUF files of this architecture keep them."""
    size = len(values) // columns // heads
    rows = [values[r * columns:(r + 1) * columns] for r in range(heads * size)]
    order = [h * size + p * (size // 2) + i for h in range(heads) for i in range(size // 2) for p in range(2)]
    return [v for r in order for v in rows[r]]


def write_gguf(path, weights, letters):
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
             "post_attention_layernorm": "ffn_norm"}
    metadata = {
        "general.architecture": "llama", "general.name": "tiny", "general.alignment": 32, "llama.block_count": LAYERS,
        "llama.context_length": CONTEXT, "llama.embedding_length": HIDDEN, "llama.feed_forward_length": INTER,
        "llama.attention.head_count": HEADS, "llama.attention.head_count_kv": KV_HEADS, "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.vocab_size": VOCAB, "llama.rope.dimension_count": HEAD_DIM,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": letters + CONTROL + [f"[PAD{i}]" for i in range(VOCAB - 259)],
        "tokenizer.ggml.token_type": [1] * 256 + [3] * 3 + [5] * (VOCAB - 259),
        "tokenizer.ggml.merges": [letters[ord("t")] + " " + letters[ord("h")]],
        "tokenizer.ggml.bos_token_id": 256, "tokenizer.ggml.eos_token_id": 258, "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }
    # The merge above needs its result in the vocabulary; it takes the place of the first padding token.
    metadata["tokenizer.ggml.tokens"][259] = "th"
    metadata["tokenizer.ggml.token_type"][259] = 1
    info, data = b"", b""
    for name, (shape, values) in weights.items():
        if name == "model.embed_tokens.weight":
            short = "token_embd.weight"
        elif name == "model.norm.weight":
            short = "output_norm.weight"
        else:
            _, _, layer, rest = name.split(".", 3)
            short = f"blk.{layer}.{names[rest.removesuffix('.weight')]}.weight"
        if "q_proj" in name or "k_proj" in name:
            values = permuted(values, HEADS if "q_proj" in name else KV_HEADS, shape[1])
        dense = len(shape) == 1
        raw, kind = (f32(values), 0) if dense else (q4_0(values), 2)
        data += b"\0" * (-len(data) % 32)
        info += gguf_text(short) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in reversed(shape))
        info += struct.pack("<IQ", kind, len(data))
        data += raw
    head = b"GGUF" + struct.pack("<IQQ", 3, len(weights), len(metadata))
    for key, value in metadata.items():
        kind, raw = gguf_value(value)
        head += gguf_text(key) + struct.pack("<I", kind) + raw
    head += info
    head += b"\0" * (-len(head) % 32)
    with open(path, "wb") as file:
        file.write(head + data)


def main():
    os.makedirs(OUT, exist_ok=True)
    letters, weights = byte_letters(), tensors()
    write_texts(letters)
    write_safetensors(os.path.join(OUT, "model.safetensors"), weights)
    write_gguf("tests/data/apps/tiny.gguf", weights, letters)


if __name__ == "__main__":
    main()
