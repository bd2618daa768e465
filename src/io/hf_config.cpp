// The rules of `quantization`, each one as mlx-lm's loader applies it.
#include "io/hf_config.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/mapped_file.h"
#include "io/quote.h"
#include "quant/affine.h"

namespace bumblebee {
namespace {

constexpr size_t kLargestConfig = size_t{16} << 20;
constexpr int kDefaultBits = 4, kDefaultGroup = 64;

const Json* find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

/// {bits, group_size, mode} of one object; `who` says whose.
AffineSpec read_spec(const Json& object, std::string_view where, const std::string& who) {
  const std::string place = cat(where, who.empty() ? "" : ", ", who);
  const std::string mode = string_or(object, "mode", place, "affine");
  if (mode == "mxfp4" || mode == "mxfp8" || mode == "nvfp4") {
    throw Error(ErrorCode::unsupported, place,
                cat("quantization mode '", mode, "' is not supported: expected 'affine'"));
  }
  if (mode != "affine") {
    throw Error(ErrorCode::unsupported, place,
                cat("unknown quantization mode: expected 'affine', got ", in_quotes(mode)));
  }
  AffineSpec spec;
  spec.bits = int(int_or(object, "bits", place, INT32_MIN, INT32_MAX, kDefaultBits));
  spec.group = int(int_or(object, "group_size", place, INT32_MIN, INT32_MAX, kDefaultGroup));
  if (!affine_bits_ok(spec.bits)) {
    throw Error(ErrorCode::bad_config, place, cat("'bits': expected 2, 3, 4, 5, 6 or 8, got ", spec.bits));
  }
  if (!affine_group_ok(spec.group)) {
    throw Error(ErrorCode::bad_config, place, cat("'group_size': expected 32, 64 or 128, got ", spec.group));
  }
  return spec;
}

[[noreturn]] void refuse_method(const Json& foreign, std::string_view where) {
  const std::string method = string_or(foreign, "quant_method", where, "");
  std::string hint = "quantize the original weights with `bumblebee quantize`, or take an MLX checkpoint";
  if (method == "awq" || method == "gptq")
    hint = "convert it with mlx-lm first, or quantize the original weights with `bumblebee quantize`";
  if (method.empty()) hint = "without 'quant_method' an object with 'bits' and 'group_size' is expected";
  throw Error(ErrorCode::unsupported, where,
              cat("'quantization_config': quant_method ", in_quotes(method), " is not supported: ", hint));
}

}  // namespace

QuantizationConfig QuantizationConfig::from_json(const Json& config, std::string_view where) {
  QuantizationConfig result;
  result.where_ = where;
  if (!config.is_object()) throw Error(ErrorCode::bad_config, where, cat("expected an object, got ", brief(config)));
  const Json* text = find(config, "text_config");
  for (const Json* level : {&config, text}) {
    if (level == nullptr) continue;
    if (const Json* activations = find(*level, "quantize_activations");
        activations != nullptr && !is_falsy(*activations)) {
      throw Error(ErrorCode::unsupported, where,
                  "'quantize_activations': quantized activations are not supported: expected false");
    }
  }
  for (const char* key : {"quantization", "quantization_config"}) {
    for (const Json* level : {&config, text}) {
      const Json* object = level == nullptr ? nullptr : find(*level, key);
      if (object == nullptr || (key != std::string_view("quantization") && is_falsy(*object))) continue;
      if (!object->is_object())
        throw Error(ErrorCode::bad_config, where, cat("'", key, "': expected an object, got ", brief(*object)));
      if (key != std::string_view("quantization")) {
        // mlx-lm writes its own object a second time under this name; anything with a method is another tool's.
        if (object->contains("quant_method") || !object->contains("bits") || !object->contains("group_size"))
          refuse_method(*object, where);
      }
      result.read(*object);
      return result;
    }
  }
  return result;
}

void QuantizationConfig::read(const Json& object) {
  present_ = true;
  if (const Json* activations = find(object, "quantize_activations");
      activations != nullptr && !is_falsy(*activations)) {
    throw Error(ErrorCode::unsupported, where_,
                "'quantize_activations': quantized activations are not supported: expected false");
  }
  top_ = read_spec(object, cat(where_, ", quantization"), "");
  for (const auto& [key, value] : object.items()) {
    if (key == "bits" || key == "group_size" || key == "mode" || key == "quantize_activations") continue;
    if (is_falsy(value)) {
      listed_[key] = {Says::dense, {}};
    } else if (value.is_boolean()) {
      listed_[key] = {Says::quantized, top_};
    } else if (value.is_object()) {
      listed_[key] = {Says::quantized, read_spec(value, cat(where_, ", quantization"), in_quotes(key))};
    } else {
      strange_[key] = brief(value);
    }
  }
}

QuantizationConfig::Rule QuantizationConfig::rule(const std::string& module) const {
  if (!present_) return {};
  if (const auto it = listed_.find(module); it != listed_.end()) return it->second;
  if (const auto it = strange_.find(module); it != strange_.end()) {
    throw Error(ErrorCode::bad_config, where_,
                cat("quantization of ", in_quotes(module), ": expected an object, true or false, got ", it->second));
  }
  return {Says::top_level, top_};
}

std::optional<AffineSpec> QuantizationConfig::resolve(const std::string& module) const {
  const Rule r = rule(module);
  if (r.says == Says::nothing || r.says == Says::dense) return std::nullopt;
  return r.spec;
}

HfConfig HfConfig::open(const std::filesystem::path& directory) {
  const auto path = directory / "config.json";
  return parse(read_text_file(path, kLargestConfig), path);
}

HfConfig HfConfig::parse(std::string_view text, const std::filesystem::path& path) {
  HfConfig config;
  config.path = path;
  JsonLimits limits;
  limits.bytes = kLargestConfig;
  config.json = parse_json(text, path.string(), limits);
  if (!config.json->is_object()) {
    throw Error(ErrorCode::bad_config, path.string(), cat("expected an object, got ", brief(config.json)));
  }
  if (const Json* file = find(config.json, "model_file"); file != nullptr && !is_falsy(*file)) {
    throw Error(ErrorCode::unsupported, path.string(),
                cat("'model_file': ", brief(*file), " is Python code of the repository, which is never run"));
  }
  config.quantization = QuantizationConfig::from_json(config.json, path.string());
  return config;
}

bool HfConfig::has_text_config() const { return json->contains("text_config") && (*json)["text_config"].is_object(); }

const Json& HfConfig::text() const { return has_text_config() ? (*json)["text_config"] : *json; }

}  // namespace bumblebee
