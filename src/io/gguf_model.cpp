// Metadata keys to config keys, tensor names to tensor names, and the refusal of everything else.
#include "io/gguf_model.h"

#include <nlohmann/json.hpp>

#include <charconv>
#include <cmath>
#include <cstring>
#include <set>

#include "base/error.h"
#include "io/quote.h"
#include "io/safetensors.h"

namespace bumblebee {
namespace {

constexpr int64_t kMostLayers = 1024, kLargestSize = 1 << 24;

struct Sizes {
  int64_t layers = 0, hidden = 0, inner = 0, heads = 0, kv_heads = 0, head = 0, vocab = 0;
};

class Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file) {}

  GgufModel read() {
    architecture_ = file_.string("general.architecture").value_or("");
    if (architecture_ != "llama" && architecture_ != "qwen2" && architecture_ != "qwen3" && !is_gemma()) {
      throw Error(
          ErrorCode::unsupported, file_.where(),
          cat("'general.architecture': expected gemma3, llama, qwen2 or qwen3, got ", in_quotes(architecture_)));
    }
    read_sizes();
    read_common();
    read_family();
    read_rope();
    refuse_other_keys();
    name_tensors();
    return std::move(model_);
  }

 private:
  bool is_gemma() const { return architecture_ == "gemma3"; }
  std::string key(const char* name) {
    std::string full = cat(architecture_, ".", name);
    known_.insert(full);
    return full;
  }
  int64_t size(const char* name, int64_t high = kLargestSize) { return file_.require_integer(key(name), 1, high); }
  [[noreturn]] void refuse(const std::string& what) const { throw Error(ErrorCode::unsupported, file_.where(), what); }

  const GgufTensor& require_tensor(const std::string& name) const {
    const GgufTensor* tensor = file_.find_tensor(name);
    if (tensor == nullptr) throw Error(ErrorCode::bad_file, file_.where(), cat("missing tensor ", in_quotes(name)));
    return *tensor;
  }

  void read_sizes() {
    sizes_.layers = size("block_count", kMostLayers);
    sizes_.hidden = size("embedding_length");
    sizes_.inner = size("feed_forward_length");
    sizes_.heads = size("attention.head_count", 65536);
    sizes_.kv_heads = file_.integer(key("attention.head_count_kv"), 1, sizes_.heads).value_or(sizes_.heads);
    const auto head = file_.integer(key("attention.key_length"), 1, 65536);
    if (!head && sizes_.hidden % sizes_.heads != 0) {
      throw Error(ErrorCode::bad_config, file_.where(),
                  cat(sizes_.heads, " heads do not divide ", sizes_.hidden, " features"));
    }
    sizes_.head = head.value_or(sizes_.hidden / sizes_.heads);
    const int64_t value_length = file_.integer(key("attention.value_length"), 1, 65536).value_or(sizes_.head);
    if (value_length != sizes_.head)
      refuse(cat("value heads of ", value_length, " beside key heads of ", sizes_.head, " are not supported"));
    if (sizes_.head % 2 != 0) refuse(cat("head size: expected an even number, got ", sizes_.head));
    const auto& embedding = require_tensor("token_embd.weight");
    sizes_.vocab =
        embedding.shape.size() == 2 && embedding.shape[0] <= uint64_t(kLargestSize) ? int64_t(embedding.shape[0]) : 0;
    file_.integer(key("vocab_size"), sizes_.vocab, sizes_.vocab);
  }

  void read_common() {
    const auto eps = file_.number(key("attention.layer_norm_rms_epsilon"));
    if (!eps)
      throw Error(ErrorCode::bad_config, file_.where(),
                  cat("metadata '", key("attention.layer_norm_rms_epsilon"), "' is missing: expected a number"));
    model_.config = {{"hidden_size", sizes_.hidden},
                     {"intermediate_size", sizes_.inner},
                     {"num_hidden_layers", sizes_.layers},
                     {"num_attention_heads", sizes_.heads},
                     {"num_key_value_heads", sizes_.kv_heads},
                     {"head_dim", sizes_.head},
                     {"rms_norm_eps", shortest_double(*eps)},
                     {"max_position_embeddings", size("context_length", int64_t{1} << 40)},
                     {"vocab_size", sizes_.vocab},
                     {"hidden_act", "silu"},
                     {"tie_word_embeddings", file_.find_tensor("output.weight") == nullptr}};
    // Harmless when absent or zero; experts would be other models.
    file_.integer(key("expert_count"), 0, 0);
    file_.integer(key("expert_used_count"), 0, 0);
    if (!file_.boolean(key("attention.causal")).value_or(true)) refuse("'attention.causal': expected true, got false");
    if (const auto layout = file_.string(key("tensor_data_layout")); layout && *layout != "Meta AI original pth") {
      refuse(cat("'tensor_data_layout': ", in_quotes(*layout), " is not supported"));
    }
  }

  /// llama.cpp knows the rest of what a Gemma 3 is by its architecture: every sixth layer sees everything.
  void read_gemma() {
    set_family("gemma3_text", "Gemma3ForCausalLM");
    model_.config.erase("hidden_act");
    const int64_t pattern = file_.integer(key("attention.sliding_window_pattern"), 1, kMostLayers).value_or(6);
    // The scale of its scores is that of a head, but for the largest: that of hidden features per head.
    constexpr int64_t kLayersOfTheLargest = 62;
    const int64_t scalar = sizes_.layers == kLayersOfTheLargest ? sizes_.hidden / sizes_.heads : sizes_.head;
    model_.config.update(
        {{"hidden_activation", "gelu_pytorch_tanh"},
         {"sliding_window", file_.require_integer(key("attention.sliding_window"), 1, int64_t{1} << 30)},
         {"sliding_window_pattern", pattern},
         {"query_pre_attn_scalar", scalar},
         {"attention_bias", false},
         {"rope_local_base_freq", shortest_double(file_.number(key("rope.freq_base_swa")).value_or(1e4f))}});
    if (const auto cap = file_.number(key("final_logit_softcapping")); cap && *cap != 0)
      model_.config["final_logit_softcapping"] = shortest_double(*cap);
  }

  void read_family() {
    if (is_gemma()) return read_gemma();
    const bool q = file_.find_tensor("blk.0.attn_q.bias") != nullptr,
               o = file_.find_tensor("blk.0.attn_output.bias") != nullptr;
    const auto window = file_.integer(key("attention.sliding_window"), 1, int64_t{1} << 40);
    if (architecture_ == "llama" && window) {
      set_family("mistral", "MistralForCausalLM");
      model_.config["sliding_window"] = *window;
      if (q || o) refuse("attention biases beside a sliding window are not supported");
    } else if (architecture_ == "llama") {
      set_family("llama", "LlamaForCausalLM");
      if (q != o) refuse("attention biases: expected all of q, k, v and output or none, got some");
      model_.config["attention_bias"] = q;
      model_.config["mlp_bias"] = false;
    } else {
      if (window) refuse(cat("metadata '", architecture_, ".attention.sliding_window' is not supported"));
      set_family(architecture_, architecture_ == "qwen2" ? "Qwen2ForCausalLM" : "Qwen3ForCausalLM");
      if (architecture_ == "qwen3") model_.config["attention_bias"] = false;
      model_.config["use_sliding_window"] = false;
      if (architecture_ == "qwen2" && sizes_.head * sizes_.heads != sizes_.hidden) {
        refuse(cat("qwen2 with head size ", sizes_.head, ": expected ", sizes_.hidden, " / ", sizes_.heads));
      }
    }
    biases_ = architecture_ == "qwen2" ? "qkv" : q ? "qkvo" : "";
  }

  void set_family(const std::string& type, const char* architecture) {
    model_.config["model_type"] = type;
    model_.config["architectures"] = {architecture};
  }

  void read_rope() {
    const float base = file_.number(key("rope.freq_base")).value_or(is_gemma() ? 1e6f : 1e4f);
    if (!(base > 0)) refuse(cat("'rope.freq_base': expected more than 0, got ", base));
    model_.config["rope_theta"] = shortest_double(base);
    const int64_t rotated = file_.integer(key("rope.dimension_count"), 1, 65536).value_or(sizes_.head);
    if (rotated != sizes_.head)
      refuse(cat("'rope.dimension_count': expected the head size ", sizes_.head, ", got ", rotated));
    const std::string type = file_.string(key("rope.scaling.type")).value_or("none");
    const auto factor = file_.number(key("rope.scaling.factor"));
    const auto original = file_.integer(key("rope.scaling.original_context_length"), 1, int64_t{1} << 40);
    file_.boolean(key("rope.scaling.finetuned"));
    const std::pair<const char*, float> fixed[] = {
        {"rope.scaling.attn_factor", 1.0f},      {"rope.scaling.yarn_ext_factor", 1.0f},
        {"rope.scaling.yarn_attn_factor", 1.0f}, {"rope.scaling.yarn_beta_fast", 32.0f},
        {"rope.scaling.yarn_beta_slow", 1.0f},   {"rope.scale_linear", 1.0f}};
    for (const auto& [name, expected] : fixed) {
      const float value = file_.number(key(name)).value_or(expected);
      if (value != expected) refuse(cat("'", architecture_, ".", name, "': expected ", expected, ", got ", value));
    }
    if (type == "linear" && factor) {
      model_.config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", shortest_double(*factor)}};
      if (original) model_.config["rope_scaling"]["original_max_position_embeddings"] = *original;
    } else if (type == "yarn" && factor && original) {
      model_.config["rope_scaling"] = {
          {"rope_type", "yarn"}, {"factor", shortest_double(*factor)}, {"original_max_position_embeddings", *original}};
    } else if (type != "none") {
      refuse(cat(
          "'rope.scaling.type': expected none, linear with a factor or yarn with a factor and original length, got ",
          in_quotes(type)));
    }
    read_rope_factors(base, type);
  }

  /// Llama 3.1 files store the result of their rope scaling, one factor per pair. The parameters are found again and
  /// must give exactly these factors.
  void read_rope_factors(float base, const std::string& type) {
    const GgufTensor* tensor = file_.find_tensor("rope_freqs.weight");
    if (tensor == nullptr) return;
    if (type != "none" || tensor->type != GgufType::f32 ||
        tensor->shape != std::vector<uint64_t>{uint64_t(sizes_.head / 2)}) {
      refuse(cat("tensor 'rope_freqs.weight': expected f32 [", sizes_.head / 2, "] and no other rope scaling"));
    }
    std::vector<float> factors(size_t(sizes_.head / 2));
    std::memcpy(factors.data(), file_.bytes(*tensor).data(), factors.size() * sizeof(float));
    const float largest = factors.back();
    static constexpr double kLow = 1, kHigh = 4, kOriginal = 8192;  // of every published Llama 3.x
    bool all_one = true;
    for (size_t i = 0; i < factors.size(); ++i) {
      const double wavelength = 2 * M_PI * std::pow(double(base), 2.0 * double(i) / double(sizes_.head));
      double expected = 1;
      if (wavelength > kOriginal / kLow) {
        expected = largest;
      } else if (wavelength >= kOriginal / kHigh) {
        const double smooth = (kOriginal / wavelength - kLow) / (kHigh - kLow);
        expected = 1 / ((1 - smooth) / double(largest) + smooth);
      }
      if (!(std::abs(double(factors[i]) - expected) <= 1e-4 * expected)) {
        refuse(cat("tensor 'rope_freqs.weight': element ", i, ": expected llama3 rope scaling with factor ", largest,
                   " (", expected, "), got ", factors[i]));
      }
      all_one = all_one && factors[i] == 1.0f;
    }
    if (all_one) return;
    model_.config["rope_scaling"] = {{"rope_type", "llama3"},
                                     {"factor", shortest_double(largest)},
                                     {"low_freq_factor", kLow},
                                     {"high_freq_factor", kHigh},
                                     {"original_max_position_embeddings", int64_t(kOriginal)}};
  }

  void refuse_other_keys() const {
    const std::string start = architecture_ + ".";
    for (const auto& [name, value] : file_.metadata()) {
      if (name.compare(0, start.size(), start) == 0 && known_.count(name) == 0) {
        refuse(cat("metadata ", in_quotes(name), " is not understood and could change the result"));
      }
    }
  }

  void add(const std::string& source, const std::string& target, std::vector<uint64_t> shape, int64_t interleaved = 0) {
    const GgufTensor& tensor = require_tensor(source);
    if (tensor.shape != shape) {
      throw Error(
          ErrorCode::bad_file, file_.where(),
          cat("tensor ", in_quotes(source), ": expected ", shape_text(shape), ", got ", shape_text(tensor.shape)));
    }
    if (shape.size() == 1 && !is_dense(tensor.type)) {
      refuse(
          cat("tensor ", in_quotes(source), ": a vector of type ", gguf_type_name(tensor.type), " is not supported"));
    }
    const bool norm = is_gemma() && shape.size() == 1;
    if (norm && tensor.type != GgufType::f32)
      refuse(cat("tensor ", in_quotes(source), ": expected f32, got ", gguf_type_name(tensor.type)));
    model_.tensors.push_back({&tensor, target, architecture_ == "llama" ? int(interleaved) : 0, norm ? 1.0f : 0.0f});
    used_.insert(source);
  }

  void name_layer(int64_t i) {
    const auto hidden = uint64_t(sizes_.hidden), inner = uint64_t(sizes_.inner);
    const auto q = uint64_t(sizes_.heads * sizes_.head), kv = uint64_t(sizes_.kv_heads * sizes_.head);
    const std::string from = cat("blk.", i, "."), to = cat("model.layers.", i, ".");
    const auto attention = [&](const char* source, char letter, uint64_t out, uint64_t in, int64_t heads) {
      add(cat(from, source, ".weight"), cat(to, "self_attn.", letter, "_proj.weight"), {out, in}, heads);
      if (biases_.find(letter) != std::string::npos)
        add(cat(from, source, ".bias"), cat(to, "self_attn.", letter, "_proj.bias"), {out}, heads);
    };
    add(from + "attn_norm.weight", to + "input_layernorm.weight", {hidden});
    attention("attn_q", 'q', q, hidden, sizes_.heads);
    attention("attn_k", 'k', kv, hidden, sizes_.kv_heads);
    attention("attn_v", 'v', kv, hidden, 0);
    attention("attn_output", 'o', hidden, q, 0);
    if (architecture_ == "qwen3" || is_gemma()) {
      add(from + "attn_q_norm.weight", to + "self_attn.q_norm.weight", {uint64_t(sizes_.head)});
      add(from + "attn_k_norm.weight", to + "self_attn.k_norm.weight", {uint64_t(sizes_.head)});
    }
    if (is_gemma()) {
      add(from + "post_attention_norm.weight", to + "post_attention_layernorm.weight", {hidden});
      add(from + "ffn_norm.weight", to + "pre_feedforward_layernorm.weight", {hidden});
      add(from + "post_ffw_norm.weight", to + "post_feedforward_layernorm.weight", {hidden});
    } else {
      add(from + "ffn_norm.weight", to + "post_attention_layernorm.weight", {hidden});
    }
    add(from + "ffn_gate.weight", to + "mlp.gate_proj.weight", {inner, hidden});
    add(from + "ffn_up.weight", to + "mlp.up_proj.weight", {inner, hidden});
    add(from + "ffn_down.weight", to + "mlp.down_proj.weight", {hidden, inner});
  }

  void name_tensors() {
    const auto hidden = uint64_t(sizes_.hidden), vocab = uint64_t(sizes_.vocab);
    add("token_embd.weight", "model.embed_tokens.weight", {vocab, hidden});
    for (int64_t i = 0; i < sizes_.layers; ++i) name_layer(i);
    add("output_norm.weight", "model.norm.weight", {hidden});
    if (file_.find_tensor("output.weight") != nullptr) add("output.weight", "lm_head.weight", {vocab, hidden});
    used_.insert("rope_freqs.weight");
    for (const GgufTensor& tensor : file_.tensors()) {
      if (used_.count(tensor.name) == 0) refuse(cat("tensor ", in_quotes(tensor.name), " is not understood"));
    }
  }

  const GgufFile& file_;
  std::string architecture_, biases_;
  Sizes sizes_;
  GgufModel model_;
  std::set<std::string> known_, used_;
};

}  // namespace

GgufModel read_gguf_model(const GgufFile& file) { return Reader(file).read(); }

double shortest_double(float value) {
  char text[64];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  double result = double(value);
  std::from_chars(text, end, result);
  return result;
}

}  // namespace bumblebee
