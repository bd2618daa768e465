// Dense arithmetic in double, written apart from the code that it tests.
#include "tests/models/adapting.h"

#include <cmath>
#include <map>

#include "base/error.h"
#include "quant/elements.h"

namespace bumblebee::models {

using namespace testing_support;

namespace {

lora::Matrix random_matrix(Random& random, int rows, int cols, double deviation) {
  return {rows, cols, random.normals(size_t(rows) * size_t(cols), deviation)};
}

struct ShapeOf {
  int out = 0, in = 0;
};

ShapeOf shape_of(const TinyModel& t, const std::string& module) {
  const int q = t.heads * (t.has_latents() ? TinyModel::kNope + t.head_dim : t.head_dim), kv = t.kv_heads * t.head_dim,
            read = t.heads * (t.has_latents() ? TinyModel::kValue : t.head_dim);
  if (module == "q_a_proj") return {TinyModel::kRank, t.d_model};
  if (module == "q_b_proj") return {q, TinyModel::kRank};
  if (module == "kv_a_proj_with_mqa") return {TinyModel::kRank + t.head_dim, t.d_model};
  const int values = t.value_heads * t.value_dim, conv = 2 * t.key_heads * t.key_dim + values;
  if (t.is_lfm2()) {
    if (module == "in_proj") return {3 * t.d_model, t.d_model};
    if (module == "out_proj") return {t.d_model, t.interval == 1 ? q : t.d_model};
    if (module == "w1" || module == "w3") return {t.d_ff, t.d_model};
    if (module == "w2") return {t.d_model, t.d_ff};
  }
  if (module == "in_proj_qkv") return {conv, t.d_model};
  if (module == "in_proj_qkvz") return {conv + values, t.d_model};
  if (module == "in_proj_z") return {values, t.d_model};
  if (module == "in_proj_ba") return {2 * t.value_heads, t.d_model};
  if (module == "in_proj_b" || module == "in_proj_a") return {t.value_heads, t.d_model};
  if (module == "out_proj") return {t.d_model, values};
  if (module == "q_proj") return {(t.is_hybrid() ? 2 : 1) * q, t.d_model};
  if (module == "k_proj" || module == "v_proj") return {kv, t.d_model};
  if (module == "o_proj") return {t.d_model, read};
  if (module == "down_proj") return {t.d_model, t.d_ff};
  if (module == "per_layer_input_gate") return {TinyModel::kAside, t.d_model};
  if (module == "per_layer_projection") return {t.d_model, TinyModel::kAside};
  if (module == "gate") return {t.experts, t.d_model};
  if (module == "shared_expert_gate") return {1, t.d_model};
  return {t.d_ff, t.d_model};
}

/// Of a layer, where a module is.
std::string block_of(const TinyModel& t, const std::string& module) {
  if (module.starts_with("per_layer_")) return "";
  if (t.is_lfm2()) {
    if (module.starts_with("w")) return "feed_forward.";
    return module == "in_proj" || (module == "out_proj" && t.interval > 1) ? "conv." : "self_attn.";
  }
  if (module == "gate" || module == "shared_expert_gate") return t.family == "mixtral" ? "block_sparse_moe." : "mlp.";
  if (module.starts_with("in_proj_") || module == "out_proj") return "linear_attn.";
  const bool mlp = module == "gate_proj" || module == "up_proj" || module == "down_proj";
  return !mlp ? "self_attn." : t.family == "qwen2_moe" ? "mlp.shared_expert." : "mlp.";
}

/// Of an expert.
ShapeOf expert_shape(const TinyModel& t, const std::string& part) {
  return part == "down_proj" ? ShapeOf{t.d_model, t.d_expert} : ShapeOf{t.d_expert, t.d_model};
}

/// Before the names of stacks, and the name of one expert's part.
std::string stacks_of(const TinyModel& t, int layer) {
  return cat("model.layers.", layer, ".", t.family == "mixtral" ? "block_sparse_moe." : "mlp.",
             t.family == "gpt_oss" ? "experts." : "switch_mlp.");
}
std::string expert_of(const TinyModel& t, int layer, int expert, const std::string& part) {
  const bool mixtral = t.family == "mixtral";
  const std::string own = part == "gate_proj" ? "w1" : part == "up_proj" ? "w3" : "w2";
  return cat("model.layers.", layer, ".", mixtral ? "block_sparse_moe." : "mlp.", "experts.", expert, ".",
             mixtral ? own : part);
}

lora::LowRank factors(Random& random, ShapeOf shape, const AdapterOptions& options) {
  const double a = 1 / std::sqrt(double(shape.in)), b = 1 / std::sqrt(double(options.rank));
  lora::LowRank low{random_matrix(random, options.rank, shape.in, a),
                    random_matrix(random, shape.out, options.rank, b),
                    float(random.uniform(0.5, 1.5)),
                    {},
                    {}};
  if (options.inner_bias) low.b_bias = random.normals(size_t(shape.out), 0.3);
  if (options.dora) {
    low.magnitude = random.normals(size_t(shape.out), 0.2);
    for (float& m : low.magnitude) m += 1;
  }
  return low;
}

/// Of all experts of a stack.
lora::LowRank stacked_factors(Random& random, int experts, ShapeOf shape, const AdapterOptions& options) {
  lora::LowRank all;
  all.experts = experts;
  all.a = {0, shape.in, {}};
  all.b = {0, options.rank, {}};
  all.scale = float(random.uniform(0.5, 1.5));
  for (int e = 0; e < experts; ++e) {
    const lora::LowRank one = factors(random, shape, options);
    all.a.rows += one.a.rows;
    all.b.rows += one.b.rows;
    all.a.values.insert(all.a.values.end(), one.a.values.begin(), one.a.values.end());
    all.b.values.insert(all.b.values.end(), one.b.values.begin(), one.b.values.end());
  }
  return all;
}

/// A matrix in double that an adapter changes.
struct Wide {
  int out = 0, in = 0;
  std::vector<double> values;
};

Wide widen(const HostWeight& weight) {
  Wide w{weight.out, weight.in, std::vector<double>(size_t(weight.out) * size_t(weight.in))};
  for (int r = 0; r < w.out; ++r)
    decode_row<double>(weight, r, std::span(w.values).subspan(size_t(r) * size_t(w.in), size_t(w.in)));
  return w;
}

/// W += weight·scale·B A, or its transpose for the table of an embedding.
void add_delta(Wide& w, const lora::LowRank& low, double weight, bool table) {
  const size_t rank = size_t(low.rank());
  for (size_t n = 0; n < size_t(w.out); ++n) {
    for (size_t k = 0; k < size_t(w.in); ++k) {
      const size_t row = table ? k : n, col = table ? n : k;
      double delta = 0;
      for (size_t i = 0; i < rank; ++i)
        delta += double(low.b.values[row * rank + i]) * double(low.a.values[i * size_t(low.a.cols) + col]);
      w.values[n * size_t(w.in) + k] += weight * double(low.scale) * delta;
    }
  }
}

/// Rows, or columns, to the lengths in `magnitude`.
void rescale(Wide& w, const std::vector<float>& magnitude, bool by_column) {
  std::vector<double> squares(magnitude.size());
  const auto at = [&](size_t n, size_t k) { return by_column ? k : n; };
  for (size_t n = 0; n < size_t(w.out); ++n) {
    for (size_t k = 0; k < size_t(w.in); ++k)
      squares[at(n, k)] += w.values[n * size_t(w.in) + k] * w.values[n * size_t(w.in) + k];
  }
  for (size_t n = 0; n < size_t(w.out); ++n) {
    for (size_t k = 0; k < size_t(w.in); ++k)
      w.values[n * size_t(w.in) + k] *= double(magnitude[at(n, k)]) / std::sqrt(squares[at(n, k)]);
  }
}

HostWeight narrow(const Wide& w) {
  const std::vector<float> values(w.values.begin(), w.values.end());
  return dense_weight(values, w.out, w.in, DType::f32);
}

class Merger {
 public:
  Merger(const TinyModel& tiny, MemoryWeights& weights) : tiny_(tiny), weights_(weights) {}

  void linear(const std::string& path, const lora::ModuleDelta& change, double weight) {
    Wide& w = wide(path);
    if (change.weight) w.values.assign(change.weight->values.begin(), change.weight->values.end());
    if (change.low_rank) {
      add_delta(w, *change.low_rank, weight, false);
      if (!change.low_rank->magnitude.empty()) rescale(w, change.low_rank->magnitude, false);
      if (!change.low_rank->b_bias.empty()) {
        std::vector<double>& b = bias(path);
        for (size_t n = 0; n < b.size(); ++n)
          b[n] += weight * double(change.low_rank->scale) * double(change.low_rank->b_bias[n]);
      }
    }
    if (change.bias) bias(path).assign(change.bias->begin(), change.bias->end());
  }

  void table(const std::string& path, const lora::ModuleDelta& change, double weight, lora::Dialect dialect) {
    Wide& w = wide(path);
    if (change.weight) w.values.assign(change.weight->values.begin(), change.weight->values.end());
    if (!change.low_rank) return;
    add_delta(w, *change.low_rank, weight, true);
    if (!change.low_rank->magnitude.empty()) rescale(w, change.low_rank->magnitude, dialect == lora::Dialect::peft);
  }

  void norm(const std::string& path, const lora::ModuleDelta& change) {
    weights_.add_vector(path + ".weight",
                        dense_weight(change.weight->values, 1, int(change.weight->values.size()), DType::f32));
  }

  /// Of one expert of a stack.
  void expert(const std::string& stack, int e, const lora::FactorView& factors, double weight) {
    const ShapeOf shape = expert_shape(tiny_, stack.substr(stack.rfind('.') + 1));
    if (!stacks_.contains(stack)) {
      HostWeight all = weights_.experts(stack, tiny_.experts, shape.out, shape.in);
      all.out *= tiny_.experts;
      stacks_[stack] = widen(all);
    }
    Wide& w = stacks_.at(stack);
    const size_t rank = size_t(factors.rank), in = size_t(shape.in);
    for (size_t n = 0; n < size_t(shape.out); ++n) {
      for (size_t k = 0; k < in; ++k) {
        double delta = 0;
        for (size_t i = 0; i < rank; ++i) delta += double(factors.b[n * rank + i]) * double(factors.a[i * in + k]);
        w.values[(size_t(e) * size_t(shape.out) + n) * in + k] += weight * double(factors.scale) * delta;
      }
    }
  }

  Wide& wide(const std::string& path) {
    const auto found = matrices_.find(path);
    if (found != matrices_.end()) return found->second;
    const auto shape = path == "model.embed_tokens" || path == "lm_head"
                           ? ShapeOf{tiny_.vocab, tiny_.d_model}
                           : shape_of(tiny_, path.substr(path.rfind('.') + 1));
    const std::string stored = path == "lm_head" && tiny_.tied ? "model.embed_tokens" : path;
    return matrices_[path] = widen(weights_.matrix(stored, shape.out, shape.in));
  }

  void finish() {
    for (const auto& [path, w] : matrices_) weights_.add_matrix(path, narrow(w));
    for (const auto& [path, w] : stacks_) weights_.add_stack(path, narrow(w), tiny_.experts);
    for (const auto& [path, b] : biases_)
      weights_.add_vector(path + ".bias",
                          dense_weight(std::vector<float>(b.begin(), b.end()), 1, int(b.size()), DType::f32));
    weights_.rewind();
  }

 private:
  std::vector<double>& bias(const std::string& path) {
    const auto found = biases_.find(path);
    if (found != biases_.end()) return found->second;
    const int size = shape_of(tiny_, path.substr(path.rfind('.') + 1)).out;
    std::vector<double> values(static_cast<size_t>(size));
    decode_row<double>(weights_.vector(path + ".bias", size), 0, values);
    return biases_[path] = std::move(values);
  }

  const TinyModel& tiny_;
  MemoryWeights& weights_;
  std::map<std::string, Wide> matrices_, stacks_;
  std::map<std::string, std::vector<double>> biases_;
};

}  // namespace

lora::Adapter random_adapter(const TinyModel& tiny, const AdapterOptions& options, uint64_t seed) {
  Random random(seed);
  lora::Adapter adapter;
  adapter.name = "random" + std::to_string(seed);
  adapter.dialect = options.dialect;
  adapter.kind = options.full ? lora::Kind::full : options.dora ? lora::Kind::dora : lora::Kind::lora;
  const auto vector = [&](const std::string& path, int size) {
    lora::Matrix weight = random_matrix(random, 1, size, 0.3);
    for (float& v : weight.values) v += 1;
    adapter.modules[path].weight = std::move(weight);
  };
  for (int i = 0; i < tiny.layers; ++i) {
    const std::string at = "model.layers." + std::to_string(i) + ".";
    for (const std::string& module : options.modules) {
      const ShapeOf shape = shape_of(tiny, module);
      lora::ModuleDelta& change = adapter.modules[at + block_of(tiny, module) + module];
      if (options.full) {
        change.weight = random_matrix(random, shape.out, shape.in, 1 / std::sqrt(double(shape.in)));
      } else {
        change.low_rank = factors(random, shape, options);
      }
      if (options.biases && (module == "q_proj" || module == "k_proj" || module == "v_proj"))
        change.bias = random.normals(size_t(shape.out), 0.5);
    }
    for (const std::string& part : options.experts) {
      const ShapeOf shape = expert_shape(tiny, part);
      if (!options.single) {
        adapter.modules[stacks_of(tiny, i) + part].low_rank = stacked_factors(random, tiny.experts, shape, options);
        continue;
      }
      for (int e = 0; e < tiny.experts; ++e) {
        if (e == 1) continue;
        AdapterOptions own = options;
        own.rank += e % 3;
        adapter.modules[expert_of(tiny, i, e, part)].low_rank = factors(random, shape, own);
      }
    }
    if (!options.norms) continue;
    if (!tiny.is_olmo()) vector(at + "input_layernorm", tiny.d_model);
    vector(at + "post_attention_layernorm", tiny.d_model);
    if (tiny.has_latents()) {
      if (tiny.family == "deepseek_v3") vector(at + "self_attn.q_a_layernorm", TinyModel::kRank);
      vector(at + "self_attn.kv_a_layernorm", TinyModel::kRank);
    }
    if (tiny.is_gemma()) vector(at + "pre_feedforward_layernorm", tiny.d_model);
    if (tiny.is_gemma() || tiny.is_olmo()) vector(at + "post_feedforward_layernorm", tiny.d_model);
    if (tiny.is_olmo()) {
      vector(at + "self_attn.q_norm", tiny.heads * tiny.head_dim);
      vector(at + "self_attn.k_norm", tiny.kv_heads * tiny.head_dim);
    }
    if (!tiny.family.starts_with("qwen3") && tiny.family != "gemma3") continue;
    vector(at + "self_attn.q_norm", tiny.head_dim);
    vector(at + "self_attn.k_norm", tiny.head_dim);
  }
  if (options.norms) vector("model.norm", tiny.d_model);
  if (options.embedding) {
    lora::ModuleDelta& change = adapter.modules["model.embed_tokens"];
    if (options.full) {
      change.weight = random_matrix(random, tiny.vocab, tiny.d_model, 1);
    } else {
      change.low_rank = factors(random, {tiny.d_model, tiny.vocab}, options);
      change.low_rank->b_bias.clear();
      for (float& v : change.low_rank->a.values) v *= float(std::sqrt(double(tiny.vocab)));
      if (options.dora) {
        const int size = options.dialect == lora::Dialect::mlx ? tiny.vocab : tiny.d_model;
        change.low_rank->magnitude = random.normals(size_t(size), 1);
        for (float& m : change.low_rank->magnitude) m += 6;
      }
    }
  }
  if (options.head) {
    lora::ModuleDelta& change = adapter.modules["lm_head"];
    if (options.full) {
      change.weight = random_matrix(random, tiny.vocab, tiny.d_model, 1 / std::sqrt(double(tiny.d_model)));
    } else {
      change.low_rank = factors(random, {tiny.vocab, tiny.d_model}, options);
      change.low_rank->b_bias.clear();
    }
  }
  return adapter;
}

MemoryWeights merged(const TinyModel& base, const std::vector<Weighted>& adapters) {
  TinyModel tiny = base;
  tiny.apart = false;
  MemoryWeights weights = tiny.weights();
  Merger merger(tiny, weights);
  merger.wide("lm_head");  // stands by itself, whatever happens to the table
  for (const Weighted& one : adapters) {
    for (const auto& [path, change] : one.adapter->modules) {
      if (change.low_rank && change.low_rank->experts > 0) {
        for (int e = 0; e < tiny.experts; ++e) merger.expert(path, e, lora::view(*change.low_rank, e), one.weight);
      } else if (const size_t number = path.find(".experts."); number != std::string::npos) {
        const int e = std::stoi(path.substr(number + std::string(".experts.").size()));
        for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
          const int layer = std::stoi(path.substr(std::string("model.layers.").size()));
          if (path == expert_of(tiny, layer, e, part))
            merger.expert(stacks_of(tiny, layer) + part, e, lora::view(*change.low_rank), one.weight);
        }
      } else if (path.ends_with("norm")) {
        merger.norm(path, change);
      } else if (path == "model.embed_tokens") {
        merger.table(path, change, one.weight, one.adapter->dialect);
        // mlx-lm has one module for both ends of a tied model.
        if (tiny.tied && one.adapter->dialect == lora::Dialect::mlx)
          merger.table("lm_head", change, one.weight, one.adapter->dialect);
      } else {
        merger.linear(path, change, one.weight);
      }
    }
  }
  merger.finish();
  return weights;
}

}  // namespace bumblebee::models
