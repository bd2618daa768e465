"""Goldens for the GGUF reader, made with the Python `gguf` package: the decoded values of every block format, and a tiny model file.

Writes tests/data/gguf/blocks.safetensors ("<TYPE>.blocks" u8, "<TYPE>.values" f32), tiny.gguf (one layer of architecture llama with a
byte-level tokenizer and six tensor types), tiny.safetensors (the same model in Hugging Face names and row order, float32), and gemma3.gguf
with gemma3.safetensors, whose tokenizer has pieces and whose norms llama.cpp's converter has added one to.
Needs: pip install gguf numpy safetensors.
"""
import argparse
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import GGUFWriter, quants
from safetensors.numpy import save_file

DATA = Path(__file__).resolve().parents[2] / "tests" / "data" / "gguf"
BLOCK_TYPES = [Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.IQ4_NL, Q.IQ4_XS]
# Where the f16 scales of a block lie; every other byte may be anything.
F16_AT = {Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0], Q.Q2_K: [80, 82], Q.Q3_K: [108], Q.Q4_K: [0, 2],
          Q.Q5_K: [0, 2], Q.Q6_K: [208], Q.IQ4_NL: [0], Q.IQ4_XS: [0]}
BLOCK_BYTES = {Q.Q4_0: 18, Q.Q4_1: 20, Q.Q5_0: 22, Q.Q5_1: 24, Q.Q8_0: 34, Q.Q2_K: 84, Q.Q3_K: 110, Q.Q4_K: 144, Q.Q5_K: 176, Q.Q6_K: 210,
               Q.IQ4_NL: 18, Q.IQ4_XS: 136}
BLOCK_SIZE = {q: 256 if "K" in q.name or q is Q.IQ4_XS else 32 for q in BLOCK_TYPES}


def random_blocks(random, kind, rows, columns):
    blocks = random.integers(0, 256, (rows, columns // BLOCK_SIZE[kind], BLOCK_BYTES[kind]), dtype=np.uint8)
    for at in F16_AT[kind]:
        scales = (random.standard_normal(blocks.shape[:2]) * 0.02).astype(np.float16)
        blocks[:, :, at:at + 2] = scales[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


def write_blocks(random, out):
    tensors = {}
    for kind in BLOCK_TYPES:
        blocks = random_blocks(random, kind, 4, BLOCK_SIZE[kind])
        tensors[f"{kind.name}.blocks"] = blocks
        tensors[f"{kind.name}.values"] = quants.dequantize(blocks, kind).astype(np.float32)
    save_file(tensors, out / "blocks.safetensors")


def unpermute(rows, heads):
    """llama.cpp's converter interleaves the two halves of each head; Hugging Face keeps them apart."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def byte_alphabet():
    """GPT-2's printable stand-ins for bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(extra)) for b in range(256)]


def write_model(random, out):
    hidden, heads, kv, head, inner = 64, 4, 2, 16, 256
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + byte_alphabet() + ["he", "ll", "hell", "hello"]
    merges = ["h e", "l l", "he ll", "hell o"]
    vocab = len(tokens)
    writer = GGUFWriter(out / "tiny.gguf", "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (vocab - 3))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    dense = {}

    def add(source, target, rows, columns, kind, interleaved=0):
        if kind in (Q.F32, Q.F16):
            shape = (columns,) if rows == 0 else (rows, columns)
            values = (random.standard_normal(shape) * 0.05).astype(np.float32 if kind == Q.F32 else np.float16)
            writer.add_tensor(source, values)
        else:
            blocks = random_blocks(random, kind, rows, columns)
            values = quants.dequantize(blocks, kind)
            writer.add_tensor(source, blocks, raw_dtype=kind)
        values = values.astype(np.float32)
        dense[target] = np.ascontiguousarray(unpermute(values, interleaved) if interleaved else values)

    add("token_embd.weight", "model.embed_tokens.weight", vocab, hidden, Q.Q8_0)
    layer, target = "blk.0.", "model.layers.0."
    add(layer + "attn_norm.weight", target + "input_layernorm.weight", 0, hidden, Q.F32)
    add(layer + "attn_q.weight", target + "self_attn.q_proj.weight", heads * head, hidden, Q.Q4_0, heads)
    add(layer + "attn_k.weight", target + "self_attn.k_proj.weight", kv * head, hidden, Q.Q4_1, kv)
    add(layer + "attn_v.weight", target + "self_attn.v_proj.weight", kv * head, hidden, Q.F16)
    add(layer + "attn_output.weight", target + "self_attn.o_proj.weight", hidden, heads * head, Q.Q5_1)
    add(layer + "ffn_norm.weight", target + "post_attention_layernorm.weight", 0, hidden, Q.F32)
    add(layer + "ffn_gate.weight", target + "mlp.gate_proj.weight", inner, hidden, Q.Q4_1)
    add(layer + "ffn_up.weight", target + "mlp.up_proj.weight", inner, hidden, Q.Q4_1)
    add(layer + "ffn_down.weight", target + "mlp.down_proj.weight", hidden, inner, Q.Q4_K)
    add("output_norm.weight", "model.norm.weight", 0, hidden, Q.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(dense, out / "tiny.safetensors")


def write_gemma(random, out):
    hidden, heads, kv, head, inner = 32, 2, 1, 16, 32
    pieces = [("th", -1), ("he", -2), ("\u2581th", -3), ("the", -4), ("\u2581the", -5), ("\u2581", -6), ("t", -7), ("h", -8), ("e", -9)]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "\n", "\n\n", "  ", *(f"<0x{b:02X}>" for b in range(256)), *(p for p, _ in pieces)]
    writer = GGUFWriter(out / "gemma3.gguf", "gemma3")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1000000.0)
    writer.add_sliding_window(16)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-1000.0] * 7 + [0.0] * 256 + [float(score) for _, score in pieces])
    writer.add_token_types([3] * 4 + [4] * 3 + [6] * 256 + [1] * len(pieces))
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    dense = {}

    def matrix(source, target, rows, columns):
        blocks = random_blocks(random, Q.Q8_0, rows, columns)
        writer.add_tensor(source + ".weight", blocks, raw_dtype=Q.Q8_0)
        dense[target + ".weight"] = quants.dequantize(blocks, Q.Q8_0).astype(np.float32)

    def norm(source, target, size):
        stored = (1 + random.standard_normal(size) * 0.3).astype(np.float32)
        writer.add_tensor(source + ".weight", stored)
        dense[target + ".weight"] = stored - np.float32(1)

    layer, target = "blk.0.", "model.layers.0."
    matrix("token_embd", "model.embed_tokens", len(tokens), hidden)
    for source, name, size in (("attn_norm", "input_layernorm", hidden), ("attn_q_norm", "self_attn.q_norm", head),
                               ("attn_k_norm", "self_attn.k_norm", head), ("post_attention_norm", "post_attention_layernorm", hidden),
                               ("ffn_norm", "pre_feedforward_layernorm", hidden), ("post_ffw_norm", "post_feedforward_layernorm", hidden)):
        norm(layer + source, target + name, size)
    for source, name, rows, columns in (("attn_q", "self_attn.q_proj", heads * head, hidden), ("attn_k", "self_attn.k_proj", kv * head, hidden),
                                        ("attn_v", "self_attn.v_proj", kv * head, hidden),
                                        ("attn_output", "self_attn.o_proj", hidden, heads * head), ("ffn_gate", "mlp.gate_proj", inner, hidden),
                                        ("ffn_up", "mlp.up_proj", inner, hidden), ("ffn_down", "mlp.down_proj", hidden, inner)):
        matrix(layer + source, target + name, rows, columns)
    norm("output_norm", "model.norm", hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(dense, out / "gemma3.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DATA)
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(20)
    write_blocks(generator, folder)
    write_model(generator, folder)
    write_gemma(generator, folder)
