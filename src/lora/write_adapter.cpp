// What must hold before either format is written.
#include "lora/write_adapter.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdlib>

#include "base/atomic_file.h"
#include "base/error.h"
#include "io/quote.h"
#include "io/safetensors.h"
#include "lora/expert_paths.h"
#include "lora/writers.h"

namespace bumblebee::lora {

void cannot_write(const Adapter& adapter, const std::string& path, std::string_view what) {
  throw Error(ErrorCode::unsupported, adapter.where.empty() ? adapter.name : adapter.where,
              cat("module ", in_quotes(path), ": ", what));
}

bool is_embedding(std::string_view path) { return path.substr(path.rfind('.') + 1) == "embed_tokens"; }

Layout Layout::of(const Adapter& adapter) {
  Layout layout;
  for (const auto& [path, change] : adapter.modules) {
    const int layer = layer_of(path);
    if (layer < 0) {
      layout.outside.insert(path);
      continue;
    }
    if (layout.layers.empty()) layout.first = layer;
    layout.first = std::min(layout.first, layer);
    layout.last = std::max(layout.last, layer);
    layout.layers[layer].emplace(inside_layer(path));
    layout.inside.emplace(inside_layer(path));
  }
  return layout;
}

bool Layout::uniform() const {
  if (int(layers.size()) != last - first + 1) return layers.empty();
  for (const auto& [layer, paths] : layers) {
    if (paths != inside) return false;
  }
  return true;
}

void TensorWriter::add(const std::string& name, const Matrix& matrix, bool as_vector) {
  if (as_vector) {
    add(name, {uint64_t(matrix.cols)}, matrix.values);
  } else {
    add(name, {uint64_t(matrix.rows), uint64_t(matrix.cols)}, matrix.values);
  }
}

void TensorWriter::write(const std::filesystem::path& path, const std::map<std::string, std::string>& metadata) const {
  std::vector<TensorView> views;
  for (const Values& v : values_) views.push_back({{v.name, DType::f32, v.shape}, std::as_bytes(std::span(v.values))});
  write_safetensors(path, views, metadata);
}

void write_adapter_config(const std::filesystem::path& directory, const Json& config) {
  // A path of the file system, which it may name, need not be UTF-8.
  write_text_file(directory / "adapter_config.json", config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

Json number(double value) {
  if (std::trunc(value) == value && std::abs(value) < 1e15) return Json(int64_t(value));
  return Json(value);
}

double dropout_of(const Adapter& adapter) {
  const auto said = adapter.facts.find("dropout");
  return said == adapter.facts.end() ? 0 : std::strtod(said->second.c_str(), nullptr);
}

void add_on_top_of(const Adapter& adapter, Json& config) {
  if (const auto under = adapter.facts.find("on_top_of"); under != adapter.facts.end())
    config["on_top_of"] = under->second;
}

std::vector<std::string> write_adapter(const Adapter& adapter, Dialect to, const std::filesystem::path& directory,
                                       const WriteOptions& options) {
  if (adapter.modules.empty()) {
    throw Error(ErrorCode::bad_request, adapter.name, "expected an adapter with modules, got none");
  }
  for (const auto& [path, change] : adapter.modules) {
    if (to == adapter.dialect || !is_embedding(path) || !change.low_rank) continue;
    if (!change.low_rank->magnitude.empty())
      cannot_write(adapter, path, "the two formats normalise a DoRA embedding differently");
    if (!options.untied_head) {
      cannot_write(
          adapter, path,
          cat("where the head is tied to the embedding, ", to_string(Dialect::mlx), " adapts both and ",
              to_string(Dialect::peft), " one: expected a base whose head is not tied (say so to convert it)"));
    }
  }
  if (to == Dialect::peft)
    return write_peft(has_stacks(adapter) ? split_experts(adapter) : adapter, directory, options);
  for (const auto& [path, change] : adapter.modules) {
    if (change.low_rank && change.low_rank->experts > 0 && is_parameter(adapter, path))
      cannot_write(adapter, path, "mlx-lm's format has no place for factors of 'target_parameters'");
  }
  return write_mlx(has_single_experts(adapter) ? stack_experts(adapter) : adapter, directory, options);
}

}  // namespace bumblebee::lora
