"""Shapes of published models that are a Llama in small variations: what differs is data. Sizes are those of the published configs
as far as they are known here; where only sizes count, one of a family is enough."""
import dataclasses
from dataclasses import dataclass, field

from random_tensors import matrix, values, vector, zeros


@dataclass(frozen=True)
class Experts:
    count: int
    of_token: int
    width: int
    shared: int = 0  # width of one that all tokens pass
    block: str = "mlp"
    names: tuple = ("gate_proj", "up_proj", "down_proj")  # of a layer without experts
    dense: int = 0  # layers before the first with experts
    balanced: str = ""  # what balances the choice
    counts: tuple = ("num_experts", "num_experts_per_tok")


@dataclass(frozen=True)
class Decoder:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    dim: int
    inner: int
    vocab: int
    tied: bool
    type: str
    architecture: str
    settings: dict = field(default_factory=dict)
    biased: bool = False  # queries, keys and values
    norms: tuple = ("input_layernorm", "post_attention_layernorm")
    head_norms: str = ""  # "whole": over all heads
    mlp: tuple = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # two names: the first is gate and up
    experts: Experts = None
    convolved: bool = False  # LFM2: all layers but `attending` are short convolutions
    attending: tuple = ()
    per_layer: dict = field(default_factory=dict)  # settings with an entry for each layer: what makes one

    def with_layers(self, layers):
        return dataclasses.replace(self, layers=layers or self.layers)

    def mlp_tensors(self, at, bits, group):
        hidden, inner = self.hidden, self.inner
        for name in self.mlp[:-1]:
            yield from matrix(at + name, 2 * inner // (len(self.mlp) - 1), hidden, bits, group)
        yield from matrix(at + self.mlp[-1], hidden, inner, bits, group)

    def expert_tensors(self, at, bits, group):
        e, hidden = self.experts, self.hidden
        at += e.block + "."
        yield from matrix(at + "gate", e.count, hidden, 8, 64)
        if e.balanced:
            yield from values(at + e.balanced, "F32", [e.count], (0.0,))
        for name, rows, columns in (("gate_proj", e.width, hidden), ("up_proj", e.width, hidden), ("down_proj", hidden, e.width)):
            yield from matrix(at + "switch_mlp." + name, rows, columns, bits, group, (e.count,))
        if e.shared:
            yield from matrix(at + "shared_expert_gate", 1, hidden, 8, 64)
            for name, rows, columns in (("gate_proj", e.shared, hidden), ("up_proj", e.shared, hidden), ("down_proj", hidden, e.shared)):
                yield from matrix(at + "shared_expert." + name, rows, columns, bits, group)

    def attention_tensors(self, at, bits, group):
        at += "self_attn."
        for name, heads in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads)):
            yield from matrix(f"{at}{name}_proj", heads * self.dim, self.hidden, bits, group)
            if self.biased:
                yield from zeros(f"{at}{name}_proj.bias", heads * self.dim)
            if name != "v" and self.head_norms:
                suffix = "layernorm" if self.convolved else "norm"
                yield from vector(f"{at}{name}_{suffix}", heads * self.dim if self.head_norms == "whole" else self.dim)
        yield from matrix(at + ("out_proj" if self.convolved else "o_proj"), self.hidden, self.heads * self.dim, bits, group)

    def tensors(self, bits, group):
        yield from matrix("model.embed_tokens", self.vocab, self.hidden, bits, group)
        for i in range(self.layers):
            at = f"model.layers.{i}."
            for norm in self.norms:
                yield from vector(at + norm, self.hidden)
            if self.convolved and i not in self.attending:
                yield from matrix(at + "conv.in_proj", 3 * self.hidden, self.hidden, bits, group)
                yield from values(at + "conv.conv.weight", "BF16", [self.hidden, 3, 1], (0.5, -0.25, 0.125, 0.75))
                yield from matrix(at + "conv.out_proj", self.hidden, self.hidden, bits, group)
            else:
                yield from self.attention_tensors(at, bits, group)
            if self.experts and i >= self.experts.dense:
                yield from self.expert_tensors(at, bits, group)
            else:
                yield from self.mlp_tensors(at, bits, group)
        yield from vector("model.embedding_norm" if self.convolved else "model.norm", self.hidden)
        if not self.tied:
            yield from matrix("lm_head", self.vocab, self.hidden, bits, group)

    def config(self, bits, group):
        quantization = {"group_size": group, "bits": bits, "mode": "affine"}
        out = {"architectures": [self.architecture], "model_type": self.type, "num_hidden_layers": self.layers,
               "hidden_size": self.hidden, "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
               "head_dim": self.dim, "intermediate_size": self.inner, "vocab_size": self.vocab, "rms_norm_eps": 1e-5,
               "tie_word_embeddings": self.tied, "torch_dtype": "bfloat16", "rope_theta": 10000.0, "max_position_embeddings": 131072}
        if self.experts:
            e = self.experts
            out |= {e.counts[0]: e.count, e.counts[1]: e.of_token, "moe_intermediate_size": e.width}
            for i in range(e.dense, self.layers):
                for name in ["gate"] + ["shared_expert_gate"] * bool(e.shared):
                    quantization[f"model.layers.{i}.{e.block}.{name}"] = {"group_size": 64, "bits": 8}
        if self.convolved:
            out["layer_types"] = ["full_attention" if i in self.attending else "conv" for i in range(self.layers)]
        return out | self.settings | {key: [one(i) for i in range(self.layers)] for key, one in self.per_layer.items()} | {
            "quantization": quantization}


LFM2 = {"norm_eps": 1e-5, "conv_L_cache": 3, "conv_bias": False, "max_position_embeddings": 128000, "rope_theta": 1000000.0}
GRANITE = {"attention_bias": False, "mlp_bias": False, "embedding_multiplier": 12, "logits_scaling": 10.0, "residual_multiplier": 0.22,
           "rope_theta": 10000000.0}
LLAMA3 = {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                                   "original_max_position_embeddings": 8192}}
GLM4_NORMS = ("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm")
GLM4_MLP = ("mlp.gate_up_proj", "mlp.down_proj")

DECODERS = {
    "deepseek-coder-1.3b": Decoder(24, 2048, 16, 16, 128, 5504, 32256, False, "llama", "LlamaForCausalLM", {
        "rope_theta": 100000.0, "rope_scaling": {"type": "linear", "factor": 4.0}, "max_position_embeddings": 16384}),
    "glm-4-9b": Decoder(40, 4096, 32, 2, 128, 13696, 151552, False, "glm4", "Glm4ForCausalLM", {
        "attention_bias": True, "partial_rotary_factor": 0.5, "max_position_embeddings": 32768}, True, GLM4_NORMS, mlp=GLM4_MLP),
    "glm-4-32b": Decoder(61, 6144, 48, 2, 128, 23040, 151552, False, "glm4", "Glm4ForCausalLM", {
        "attention_bias": False, "partial_rotary_factor": 0.5, "max_position_embeddings": 32768}, False, GLM4_NORMS, mlp=GLM4_MLP),
    "granite-3.3-8b": Decoder(40, 4096, 32, 8, 128, 12800, 49159, True, "granite", "GraniteForCausalLM", GRANITE | {
        "attention_multiplier": 0.0078125, "logits_scaling": 16.0}),
    "granite-4.0-micro": Decoder(40, 2560, 40, 8, 64, 8192, 100352, True, "granitemoehybrid", "GraniteMoeHybridForCausalLM", GRANITE | {
        "attention_multiplier": 0.015625, "shared_intermediate_size": 8192, "num_local_experts": 0, "num_experts_per_tok": 0,
        "position_embedding_type": "rope"}, mlp=("shared_mlp.input_linear", "shared_mlp.output_linear"),
        per_layer={"layer_types": lambda i: "attention"}),
    "lfm2-8b-a1b": Decoder(24, 2048, 32, 8, 64, 7168, 65536, True, "lfm2_moe", "Lfm2MoeForCausalLM", LFM2 | {
        "num_dense_layers": 2, "use_expert_bias": True, "norm_topk_prob": True, "routed_scaling_factor": 1.0},
        norms=("operator_norm", "ffn_norm"), head_norms="each", mlp=("feed_forward.w1", "feed_forward.w3", "feed_forward.w2"),
        experts=Experts(32, 4, 1792, block="feed_forward", dense=2, balanced="expert_bias"), convolved=True,
        attending=(2, 6, 10, 14, 18, 21)),
    "llama-3.1-8b": Decoder(32, 4096, 32, 8, 128, 14336, 128256, False, "llama", "LlamaForCausalLM", LLAMA3),
    "llama-3.2-1b": Decoder(16, 2048, 32, 8, 64, 8192, 128256, True, "llama", "LlamaForCausalLM", LLAMA3),
    "llama-3.2-3b": Decoder(28, 3072, 24, 8, 128, 8192, 128256, True, "llama", "LlamaForCausalLM", LLAMA3),
    "mistral-7b": Decoder(32, 4096, 32, 8, 128, 14336, 32768, False, "mistral", "MistralForCausalLM", {
        "rope_theta": 1000000.0, "max_position_embeddings": 32768, "sliding_window": None}),
    "mixtral-8x7b": Decoder(32, 4096, 32, 8, 128, 14336, 32000, False, "mixtral", "MixtralForCausalLM", {
        "rope_theta": 1000000.0, "max_position_embeddings": 32768, "sliding_window": None},
        experts=Experts(8, 2, 14336, block="block_sparse_moe", counts=("num_local_experts", "num_experts_per_tok"))),
    "olmo-2-7b": Decoder(32, 4096, 32, 32, 128, 11008, 100352, False, "olmo2", "Olmo2ForCausalLM", {
        "rope_theta": 500000.0, "rms_norm_eps": 1e-6, "max_position_embeddings": 4096},
        norms=("post_attention_layernorm", "post_feedforward_layernorm"), head_norms="whole"),
    "qwen1.5-moe-a2.7b": Decoder(24, 2048, 16, 16, 128, 5632, 151936, False, "qwen2_moe", "Qwen2MoeForCausalLM", {
        "rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "max_position_embeddings": 8192, "shared_expert_intermediate_size": 5632,
        "norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": []}, True,
        experts=Experts(60, 4, 1408, shared=5632)),
    "qwen2.5-7b": Decoder(28, 3584, 28, 4, 128, 18944, 152064, False, "qwen2", "Qwen2ForCausalLM", {
        "rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768}, True),
    "seed-oss-36b": Decoder(64, 5120, 80, 8, 128, 27648, 155136, False, "seed_oss", "SeedOssForCausalLM", {
        "attention_bias": True, "attention_out_bias": False, "mlp_bias": False, "rope_theta": 10000000.0, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 524288}, True),
    "smollm3-3b": Decoder(36, 2048, 16, 4, 128, 11008, 128256, True, "smollm3", "SmolLM3ForCausalLM", {
        "rope_theta": 5000000.0, "rms_norm_eps": 1e-6, "max_position_embeddings": 65536},
        per_layer={"no_rope_layers": lambda i: int(i % 4 != 3)}),
}
