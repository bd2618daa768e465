// mlx-lm's format has one rank and one scale for all modules. Smaller ranks are filled up with zeros and other scales
// go into B; modules that were not changed in a layer and were in its neighbours are written as zeros, because mlx-lm
// makes every layer alike.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "lora/bind_to_base.h"
#include "lora/writers.h"

namespace bumblebee::lora {
namespace {

void check(const Adapter& adapter) {
  for (const auto& [path, change] : adapter.modules) {
    if (change.low_rank && !change.low_rank->b_bias.empty())
      cannot_write(adapter, path, "mlx-lm's format has no place for a bias of B (lora_bias)");
    if (adapter.kind != Kind::full && (change.weight || change.bias))
      cannot_write(adapter, path, "mlx-lm's format has no place for whole weights or biases beside factors");
  }
}

/// How many of the last layers there are, in the meaning of `num_layers`; -1 for all.
int count_layers(const Adapter& adapter, const Layout& layout, const WriteOptions& options) {
  if (layout.layers.empty()) return 1;  // only modules outside, which do not depend on it
  const int touched = layout.last - layout.first + 1;
  if (options.layers > 0) {
    if (layout.last >= options.layers) {
      throw Error(ErrorCode::bad_request, adapter.where,
                  cat("layers: expected at most ", options.layers, " as the base has, got ", layout.last + 1));
    }
    return options.layers - layout.first;
  }
  const bool chosen = adapter.targets && adapter.targets->names_layers();
  if (adapter.dialect == Dialect::mlx) {
    const auto said = adapter.facts.find("num_layers");
    return said != adapter.facts.end() && said->second == "all" ? -1 : touched;
  }
  if (layout.first == 0 && !chosen) return -1;
  throw Error(ErrorCode::bad_request, adapter.where,
              "mlx-lm counts layers from the last, and the adapter does not say how many its base has: give the base");
}

/// A module's name in mlx-lm's model of the base.
std::string mlx_name(const WriteOptions& options, const std::string& path) {
  return options.prefix ? *options.prefix + plain_path(path) : path;
}

class MlxWriter {
 public:
  MlxWriter(const Adapter& adapter, const WriteOptions& options)
      : adapter_(adapter),
        further_(*options.config),
        options_(options),
        layout_(Layout::of(adapter)),
        layers_(count_layers(adapter, layout_, options)) {
    for (const auto& [path, change] : adapter.modules) rank_ = std::max(rank_, change.low_rank->rank());
    scale_ = most_common<float>(adapter, [](const LowRank& low) { return low.scale; });
    if (options.layers > 0) layout_.last = options.layers - 1;
  }

  std::vector<std::string> write(const std::filesystem::path& directory) {
    for (const auto& [path, change] : adapter_.modules) add(path, *change.low_rank);
    for (int layer = layout_.first; layer <= layout_.last; ++layer) {
      for (const std::string& inside : layout_.inside) fill(layer, inside);
    }
    Json keys = Json::array();
    for (const std::string& key : layout_.inside) keys.push_back(key);
    for (const std::string& key : layout_.outside) keys.push_back(mlx_name(options_, key));
    Json config = further_.is_object() ? further_ : Json::object();
    config["fine_tune_type"] = std::string(to_string(adapter_.kind));
    config["num_layers"] = layers_;
    config["lora_parameters"] = {
        {"rank", rank_}, {"scale", double(scale_)}, {"dropout", dropout_of(adapter_)}, {"keys", keys}};
    if (!adapter_.base.empty()) config["model"] = adapter_.base;
    add_on_top_of(adapter_, config);
    tensors_.write(directory / "adapters.safetensors", {{"format", "mlx"}});
    write_adapter_config(directory, config);
    return notes();
  }

 private:
  /// As mlx-lm has them: of a linear transposed, of a stack as they are.
  void add(const std::string& path, const LowRank& low) {
    if (low.experts > 0) return add_stack(path, low);
    const size_t rank = size_t(low.rank()), in = size_t(low.a.cols), out = size_t(low.b.rows), full = size_t(rank_);
    std::vector<float> a(in * full), b(full * out);
    bool exact = true;
    for (size_t k = 0; k < rank; ++k) {
      for (size_t i = 0; i < in; ++i) a[i * full + k] = low.a.values[k * in + i];
      for (size_t o = 0; o < out; ++o) b[k * out + o] = scaled(path, low, low.b.values[o * rank + k], exact);
    }
    rounded_ += !exact;
    const std::string name = mlx_name(options_, path);
    tensors_.add(name + ".lora_a", {in, full}, std::move(a));
    tensors_.add(name + ".lora_b", {full, out}, std::move(b));
    if (!low.magnitude.empty()) tensors_.add(name + ".m", {low.magnitude.size()}, low.magnitude);
  }

  void add_stack(const std::string& path, const LowRank& low) {
    const size_t rank = size_t(low.rank()), in = size_t(low.a.cols), out = size_t(low.out()), full = size_t(rank_);
    const size_t experts = size_t(low.experts);
    std::vector<float> a(experts * full * in), b(experts * out * full);
    bool exact = true;
    for (size_t e = 0; e < experts; ++e) {
      const FactorView own = view(low, int(e));
      std::copy(own.a.begin(), own.a.end(), a.begin() + int64_t(e * full * in));
      for (size_t o = 0; o < out; ++o) {
        for (size_t k = 0; k < rank; ++k) b[(e * out + o) * full + k] = scaled(path, low, own.b[o * rank + k], exact);
      }
    }
    rounded_ += !exact;
    const std::string name = mlx_name(options_, path);
    tensors_.add(name + ".lora_a", {experts, full, in}, std::move(a));
    tensors_.add(name + ".lora_b", {experts, out, full}, std::move(b));
  }

  /// A value of B under the scale of all.
  float scaled(const std::string& path, const LowRank& low, float from, bool& exact) const {
    const double ratio = scale_ == 0 ? 0 : double(low.scale) / double(scale_);
    const float to = ratio == 1 ? from : float(double(from) * ratio);
    if (!std::isfinite(to)) cannot_write(adapter_, path, "its scale is too far from the others' for one scale");
    exact = exact && double(to) * double(scale_) == double(from) * double(low.scale);
    return to;
  }

  /// Zeros in the shape that this module has in another layer.
  void fill(int layer, const std::string& inside) {
    const auto here = layout_.layers.find(layer);
    if (here != layout_.layers.end() && here->second.contains(inside)) return;
    for (const auto& [path, change] : adapter_.modules) {
      if (inside_layer(path) != inside || layer_of(path) < 0) continue;
      const std::string number = std::to_string(layer_of(path));
      const std::string head = path.substr(0, path.size() - inside.size() - number.size() - 1);
      const std::string to = cat(head, layer, ".", inside);
      if (!options_.modules.empty() && !options_.modules.contains(plain_path(to))) return;
      if (!change.low_rank->magnitude.empty())
        cannot_write(adapter_, to, "mlx-lm would give this layer a magnitude, and the adapter has none");
      LowRank zeros = *change.low_rank;
      std::fill(zeros.a.values.begin(), zeros.a.values.end(), 0.0f);
      std::fill(zeros.b.values.begin(), zeros.b.values.end(), 0.0f);
      add(to, zeros);
      ++filled_;
      return;
    }
  }

  std::vector<std::string> notes() const {
    std::vector<std::string> notes;
    if (rounded_ > 0)
      notes.push_back(cat("scales differ: folded into B of ", rounded_, " modules, each value rounded once (2^-24)"));
    if (filled_ > 0) notes.push_back(cat(filled_, " modules written as zeros, because mlx-lm makes every layer alike"));
    return notes;
  }

  const Adapter& adapter_;
  const Json& further_;
  const WriteOptions& options_;
  Layout layout_;
  int layers_ = -1, rank_ = 0, rounded_ = 0, filled_ = 0;
  float scale_ = 0;
  TensorWriter tensors_;
};

std::vector<std::string> write_full(const Adapter& adapter, const std::filesystem::path& directory, int layers,
                                    const WriteOptions& options) {
  TensorWriter tensors;
  for (const auto& [path, change] : adapter.modules) {
    const std::string name = mlx_name(options, path);
    if (change.weight) tensors.add(name + ".weight", *change.weight, change.weight->rows == 1);
    if (change.bias) tensors.add(name + ".bias", {change.bias->size()}, *change.bias);
  }
  Json config = {{"fine_tune_type", "full"}, {"num_layers", layers}, {"lora_parameters", nullptr}};
  if (!adapter.base.empty()) config["model"] = adapter.base;
  tensors.write(directory / "adapters.safetensors", {{"format", "mlx"}});
  write_adapter_config(directory, config);
  return {};
}

}  // namespace

std::vector<std::string> write_mlx(const Adapter& adapter, const std::filesystem::path& directory,
                                   const WriteOptions& options) {
  check(adapter);
  if (adapter.kind == Kind::full)
    return write_full(adapter, directory, count_layers(adapter, Layout::of(adapter), options), options);
  return MlxWriter(adapter, options).write(directory);
}

}  // namespace bumblebee::lora
