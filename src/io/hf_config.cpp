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

const Json* find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

/// {bits, group_size, mode} of one object; `who` says whose.
QuantSpec read_spec(const Json& object, std::string_view where, const std::string& who) {
  const std::string place = cat(where, who.empty() ? "" : ", ", who);
  const std::string name = string_or(object, "mode", place, "affine");
  const std::optional<QuantMode> mode = quant_mode_from_string(name);
  if (!mode) {
    throw Error(ErrorCode::unsupported, place,
                cat("unknown quantization mode: expected affine, mxfp4, mxfp8 or nvfp4, got ", in_quotes(name)));
  }
  const QuantSpec usual = QuantSpec::of(*mode);
  QuantSpec spec = usual;
  spec.bits = int(int_or(object, "bits", place, INT32_MIN, INT32_MAX, usual.bits));
  spec.group = int(int_or(object, "group_size", place, INT32_MIN, INT32_MAX, usual.group));
  if (*mode != QuantMode::affine) {
    if (spec != usual) {
      throw Error(ErrorCode::bad_config, place,
                  cat("mode ", name, ": expected ", usual.bits, " bits and groups of ", usual.group, ", got ",
                      spec.bits, " and ", spec.group));
    }
    return spec;
  }
  if (!affine_bits_ok(spec.bits)) {
    throw Error(ErrorCode::bad_config, place, cat("'bits': expected 2, 3, 4, 5, 6 or 8, got ", spec.bits));
  }
  if (!affine_group_ok(spec.group)) {
    throw Error(ErrorCode::bad_config, place, cat("'group_size': expected 32, 64 or 128, got ", spec.group));
  }
  return spec;
}

/// hf_quant_config.json nests the settings of ModelOpt, config.json does not.
const Json& modelopt_settings(const Json& object) {
  const Json* nested = find(object, "quantization");
  return nested != nullptr && nested->is_object() ? *nested : object;
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
      // mlx-lm writes its own object a second time under this name; anything with a method is another tool's.
      const bool own =
          key == std::string_view("quantization") ||
          (!object->contains("quant_method") && object->contains("bits") && object->contains("group_size"));
      own ? result.read(*object) : result.read_method(*object);
      return result;
    }
  }
  return result;
}

void QuantizationConfig::read_method(const Json& object) {
  const std::string method = string_or(object, "quant_method", where_, "");
  const auto is = [&](QuantMode mode, TensorNames names) {
    present_ = true;
    top_ = QuantSpec::of(mode);
    names_ = names;
  };
  const auto refuse = [&](const char* key, const std::string& value, const char* expected) {
    throw Error(ErrorCode::unsupported, where_,
                cat("'quantization_config': quant_method ", in_quotes(method), " with ", key, " ", in_quotes(value),
                    " is not supported: expected ", expected));
  };
  if (method == "mxfp4") return is(QuantMode::mxfp4, TensorNames::mlx);
  if (method == "mxfp8") return is(QuantMode::mxfp8, TensorNames::mlx);
  if (method == "fp8") {
    const Json* block = find(object, "weight_block_size");
    if (const std::string scales = string_or(object, "scale_fmt", where_, ""); scales != "ue8m0")
      refuse("scale_fmt", scales, "ue8m0");
    if (block == nullptr || *block != Json({32, 32}))
      refuse("weight_block_size", block == nullptr ? "" : block->dump(), "[32,32]");
    return is(QuantMode::mxfp8, TensorNames::blocks);
  }
  if (method == "compressed-tensors") {
    const std::string format = string_or(object, "format", where_, "");
    if (format == "mxfp4-pack-quantized") return is(QuantMode::mxfp4, TensorNames::compressed_tensors);
    if (format == "nvfp4-pack-quantized") return is(QuantMode::nvfp4, TensorNames::compressed_tensors);
    refuse("format", format, "mxfp4-pack-quantized or nvfp4-pack-quantized");
  }
  if (method == "modelopt") {
    const Json& settings = modelopt_settings(object);
    const std::string algorithm = string_or(settings, "quant_algo", where_, "");
    if (algorithm != "NVFP4") refuse("quant_algo", algorithm, "NVFP4");
    if (const int64_t group = int_or(settings, "group_size", where_, INT32_MIN, INT32_MAX, 16); group != 16)
      refuse("group_size", std::to_string(group), "16");
    return is(QuantMode::nvfp4, TensorNames::modelopt);
  }
  refuse_method(object, where_);
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
      listed_[key] = {Says::dense, {}, false};
    } else if (value.is_boolean()) {
      listed_[key] = {Says::quantized, top_, false};
    } else if (value.is_object()) {
      const Json* global = find(value, "global_scale");
      listed_[key] = {Says::quantized, read_spec(value, cat(where_, ", quantization"), in_quotes(key)),
                      global != nullptr && !is_falsy(*global)};
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
  return {Says::top_level, top_, false};
}

std::optional<QuantSpec> QuantizationConfig::resolve(const std::string& module) const {
  const Rule r = rule(module);
  if (r.says == Says::nothing || r.says == Says::dense) return std::nullopt;
  return r.spec;
}

HfConfig HfConfig::open(const std::filesystem::path& directory) {
  const auto path = directory / "config.json";
  HfConfig config = parse(read_text_file(path, kLargestConfig), path);
  const auto modelopt = directory / "hf_quant_config.json";
  std::error_code error;
  if (config.quantization.present() || !std::filesystem::exists(modelopt, error)) return config;
  JsonLimits limits;
  limits.bytes = kLargestConfig;
  Json quantization = parse_json(read_text_file(modelopt, kLargestConfig), modelopt.string(), limits);
  if (!quantization.is_object())
    throw Error(ErrorCode::bad_config, modelopt.string(), cat("expected an object, got ", brief(quantization)));
  if (string_or(modelopt_settings(quantization), "quant_algo", modelopt.string(), "").empty())
    return config;  // of the cache alone
  quantization["quant_method"] = "modelopt";
  config.quantization =
      QuantizationConfig::from_json({{"quantization_config", std::move(quantization)}}, modelopt.string());
  return config;
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

std::optional<QuantSpec> HfConfig::quantized_as(const std::string& module, QuantSpec wanted) const {
  const bool router = module.ends_with(".mlp.gate") || module.ends_with(".feed_forward.gate") ||
                      module.ends_with(".mlp.router") || module.ends_with(".router.proj");
  if (!router) return wanted;
  if (text().contains("n_routed_experts")) return std::nullopt;
  return QuantSpec{8, 64};
}

bool HfConfig::has_text_config() const { return json->contains("text_config") && (*json)["text_config"].is_object(); }

const Json& HfConfig::text() const { return has_text_config() ? (*json)["text_config"] : *json; }

}  // namespace bumblebee
