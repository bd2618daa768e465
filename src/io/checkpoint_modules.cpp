// What is stored of each module: its tensors matched with the config, with both named where they disagree.
#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "base/error.h"
#include "io/checkpoint.h"
#include "io/quote.h"
#include "quant/affine.h"
#include "quant/elements.h"

namespace bumblebee {
namespace {

/// Throws for a module that has its weight at `at`.
struct ModuleError {
  const Checkpoint::Found& at;
  const std::string& path;
  [[noreturn]] void operator()(ErrorCode code, const std::string& what) const {
    throw Error(code, at.file->where(), cat("module ", in_quotes(path), ": ", what));
  }
};

/// Width and group of a module with `in` inputs, as its tensors have them. `fail(code, what)` throws.
template <class Fail>
QuantSpec spec_by_shapes(const TensorEntry& weight, const TensorEntry& scales, uint64_t in, const Fail& fail) {
  const uint64_t words = weight.shape.back(), groups = scales.shape.back();
  const uint64_t bits = words < in ? words * 32 / in : 32, group = groups > 0 ? in / groups : 0;
  const bool whole = words < in && bits * in == words * 32 && group * groups == in;
  if (!whole || !affine_bits_ok(int(bits)) || group > 128 || !affine_group_ok(int(group))) {
    fail(ErrorCode::bad_file,
         cat("weight ", shape_text(weight.shape), " and scales ", shape_text(scales.shape), " with ", in,
             " inputs: expected 2, 3, 4, 5, 6 or 8 bits and groups of 32, 64 or 128, got ",
             double(words) * 32 / double(in), " bits and groups of ",
             groups == 0 ? std::string("nothing") : cat(double(in) / double(groups))));
  }
  return {int(bits), int(group)};
}

/// Float codes by bits times group, which differ; empty when it is none of theirs.
std::optional<QuantSpec> floats_by_shapes(uint64_t row_bits, uint64_t groups) {
  for (const QuantMode mode : {QuantMode::mxfp4, QuantMode::mxfp8, QuantMode::nvfp4}) {
    const QuantSpec spec = QuantSpec::of(mode);
    if (groups > 0 && row_bits == groups * uint64_t(spec.bits) * uint64_t(spec.group)) return spec;
  }
  return std::nullopt;
}

bool holds_float_scales(DType dtype) {
  return dtype == DType::u8 || dtype == DType::f8_e8m0 || dtype == DType::f8_e4m3;
}

/// Of a module with scales that only float codes have.
QuantSpec float_spec(const Checkpoint::Parts& p, const QuantizationConfig::Rule& rule, const ModuleError& fail) {
  using Says = QuantizationConfig::Says;
  const TensorEntry &w = *p.weight.tensor, &s = *p.scales.tensor;
  if (p.biases)
    fail(ErrorCode::bad_file, "tensor biases beside scales of type " + std::string(to_string(s.dtype)) +
                                  ": codes that are floats have none");
  const DType packed = p.names == TensorNames::mlx      ? DType::u32
                       : p.names == TensorNames::blocks ? DType::f8_e4m3
                                                        : DType::u8;
  if (w.dtype != packed)
    fail(ErrorCode::bad_file, cat("weight beside scales of type ", to_string(s.dtype), ": expected ", to_string(packed),
                                  ", got ", to_string(w.dtype)));
  bool same = w.shape.size() >= 2 && w.shape.size() == s.shape.size();
  for (size_t i = 0; same && i + 1 < w.shape.size(); ++i) {
    const bool rows = p.names == TensorNames::blocks && i + 2 == w.shape.size();
    same = s.shape[i] == (rows ? (w.shape[i] + 31) / 32 : w.shape[i]);
  }
  const auto bits = checked_mul(w.shape.empty() ? 0 : w.shape.back(), uint64_t(8 * size_of(w.dtype)));
  const auto spec = same && bits ? floats_by_shapes(*bits, s.shape.back()) : std::nullopt;
  const bool e4m3 = spec && spec->mode == QuantMode::nvfp4;
  if (!spec || (s.dtype != DType::u8 && (s.dtype == DType::f8_e4m3) != e4m3)) {
    fail(ErrorCode::bad_file, cat("weight ", shape_text(w.shape), " and scales ", shape_text(s.shape), " of type ",
                                  to_string(s.dtype), ": expected those of mxfp4, mxfp8 or nvfp4"));
  }
  if (rule.says == Says::dense) fail(ErrorCode::bad_config, "has scales, but config.json's quantization says false");
  if (rule.says == Says::quantized && rule.spec != *spec) {
    fail(ErrorCode::bad_config,
         cat("config.json says ", to_string(rule.spec), ", but weight ", shape_text(w.shape), " and scales ",
             shape_text(s.shape), " of type ", to_string(s.dtype), " are ", to_string(*spec)));
  }
  if (p.global && !e4m3) fail(ErrorCode::bad_file, cat("a global scale belongs to nvfp4, got ", to_string(*spec)));
  if (rule.global_scale && !p.global)
    fail(ErrorCode::bad_file, "config.json says that it has a global scale, but there is no such tensor");
  return *spec;
}

/// One scale for each row where a block of 32 rows has one: [rows, groups] for each matrix.
std::vector<std::byte> repeated_scales(std::span<const std::byte> blocks, uint64_t matrices, uint64_t rows,
                                       uint64_t groups) {
  std::vector<std::byte> scales;
  scales.reserve(matrices * rows * groups);
  const uint64_t block_rows = (rows + 31) / 32;
  for (uint64_t m = 0; m < matrices; ++m) {
    for (uint64_t r = 0; r < rows; ++r) {
      const auto row = blocks.subspan((m * block_rows + r / 32) * groups, groups);
      scales.insert(scales.end(), row.begin(), row.end());
    }
  }
  return scales;
}

/// What all scales of each matrix are multiplied by.
std::vector<float> global_factors(const Checkpoint::Parts& p, uint64_t matrices, const ModuleError& fail) {
  std::vector<float> factors;
  if (!p.global) return factors;
  const TensorEntry& g = *p.global.tensor;
  const size_t count = p.global.bytes().size() / size_t(size_of(g.dtype));
  if (g.dtype != DType::f32 || (count != 1 && count != matrices)) {
    fail(ErrorCode::bad_file, cat("global scale: expected f32, one or one for each of ", matrices, " matrices, got ",
                                  to_string(g.dtype), " ", shape_text(g.shape)));
  }
  for (uint64_t m = 0; m < matrices; ++m) {
    const float value = load_float(p.global.bytes(), DType::f32, count == 1 ? 0 : m);
    const float factor = p.names == TensorNames::mlx        ? value / kGlobalUnit
                         : p.names == TensorNames::modelopt ? value
                                                            : 1 / value;
    if (!(factor >= 0 && factor < INFINITY))
      fail(ErrorCode::bad_file, cat("global scale: expected a positive number, got ", value));
    factors.push_back(factor);
  }
  return factors;
}

}  // namespace

Checkpoint::Parts Checkpoint::parts(const std::string& path) const {
  Parts p;
  p.weight = find(path + ".weight");
  p.scales = find(path + ".scales");
  p.biases = find(path + ".biases");
  p.global = find(path + ".global_scale");
  const TensorNames names = config_.quantization.names();
  if (p.scales || names == TensorNames::mlx) return p;
  const Found packed = find(path + ".weight_packed"),
              scales = find(path + (names == TensorNames::blocks ? ".weight_scale_inv" : ".weight_scale"));
  if (!scales) return p;
  p.names = names;
  p.scales = scales;
  if (names == TensorNames::modelopt) p.global = find(path + ".weight_scale_2");
  if (names == TensorNames::compressed_tensors) {
    if (packed) p.weight = packed;
    p.global = find(path + ".weight_global_scale");
  }
  return p;
}

std::optional<Format> Checkpoint::quantized_format(const std::string& path) const {
  const Parts p = parts(path);
  const Found &weight = p.weight, &scales = p.scales, &biases = p.biases;
  if (!weight)
    throw Error(ErrorCode::bad_file, directory_.string(), cat("missing tensor ", in_quotes(path + ".weight")));
  const ModuleError fail{weight, path};
  const auto rule = this->rule(path);
  using Says = QuantizationConfig::Says;
  if (!scales) {
    if (weight.tensor->dtype == DType::u32)
      fail(ErrorCode::bad_file, cat("packed weight (u32) without tensor ", in_quotes(path + ".scales")));
    if (biases)
      fail(ErrorCode::bad_file, cat("tensor ", in_quotes(path + ".biases"), " without ", in_quotes(path + ".scales")));
    if (rule.says == Says::quantized) {
      fail(ErrorCode::bad_file,
           cat("config.json says ", to_string(rule.spec), ", but tensor ", in_quotes(path + ".scales"), " is missing"));
    }
    return std::nullopt;
  }
  const TensorEntry &w = *weight.tensor, &s = *scales.tensor;
  if (holds_float_scales(s.dtype)) {
    const QuantSpec spec = float_spec(p, rule, fail);
    if (rule.says == Says::nothing || spec != rule.spec) by_shapes_[path] = spec;
    return format_of(spec, DType::f32);
  }
  if (!is_float(s.dtype)) fail(ErrorCode::bad_file, cat("scales: expected f32, f16 or bf16, got ", to_string(s.dtype)));
  if (p.names != TensorNames::mlx)
    fail(ErrorCode::bad_file, cat("scales: expected one byte each, got ", to_string(s.dtype)));
  if (w.dtype != DType::u32)
    fail(ErrorCode::bad_file, cat("weight beside scales: expected u32, got ", to_string(w.dtype)));
  if (!biases)
    fail(ErrorCode::bad_file, cat("missing tensor ", in_quotes(path + ".biases"), ": affine quantization has one"));
  const TensorEntry& b = *biases.tensor;
  if (!is_float(b.dtype)) fail(ErrorCode::bad_file, cat("biases: expected f32, f16 or bf16, got ", to_string(b.dtype)));
  if (s.shape != b.shape)
    fail(ErrorCode::bad_file,
         cat("biases: expected the shape of scales ", shape_text(s.shape), ", got ", shape_text(b.shape)));
  if (w.shape.size() < 2 || w.shape.size() != s.shape.size() ||
      !std::equal(w.shape.begin(), w.shape.end() - 1, s.shape.begin())) {
    fail(ErrorCode::bad_file, cat("weight ", shape_text(w.shape), " and scales ", shape_text(s.shape),
                                  ": expected equal leading dimensions"));
  }
  if (p.global) fail(ErrorCode::bad_file, "a global scale belongs to nvfp4, got affine");
  if (rule.says == Says::dense) fail(ErrorCode::bad_config, "has scales, but config.json's quantization says false");
  if (rule.says == Says::quantized && rule.spec.mode != QuantMode::affine) {
    fail(ErrorCode::bad_config, cat("config.json says ", to_string(rule.spec), ", but scales of type ",
                                    to_string(s.dtype), " and biases are affine"));
  }
  const auto known = inputs_.find(path);
  if (known != inputs_.end() && rule.says != Says::quantized) {
    const QuantSpec spec = spec_by_shapes(w, s, uint64_t(known->second), fail);
    if (rule.says == Says::nothing || spec != rule.spec) by_shapes_[path] = spec;
    return Format::affine(spec.bits, spec.group, s.dtype, b.dtype);
  }
  if (rule.says == Says::nothing || rule.spec.mode != QuantMode::affine) {
    fail(ErrorCode::bad_config,
         "has scales and biases, but config.json does not say of which bits and group, and how many inputs it has is "
         "not known here: bits and group cannot be told from its shapes");
  }
  const auto stream = checked_mul(w.shape.back(), 32);
  const auto wanted = checked_mul(s.shape.back(), uint64_t(rule.spec.bits) * uint64_t(rule.spec.group));
  if (!stream || !wanted || *stream != *wanted || s.shape.back() == 0) {
    fail(ErrorCode::bad_config,
         cat("config.json says ", to_string(rule.spec), " (bits times group ", rule.spec.bits * rule.spec.group,
             "), but weight ", shape_text(w.shape), " and scales ", shape_text(s.shape), " give ",
             s.shape.back() == 0 ? std::string("nothing") : cat(double(w.shape.back()) * 32 / double(s.shape.back()))));
  }
  return Format::affine(rule.spec.bits, rule.spec.group, s.dtype, b.dtype);
}

HostWeight Checkpoint::quantized_module(const std::string& path) const {
  const std::optional<Format> format = quantized_format(path);
  BB_CHECK(format.has_value(), path);
  const Parts p = parts(path);
  const std::vector<uint64_t>& shape = p.weight.tensor->shape;
  const uint64_t rows = shape[shape.size() - 2], groups = p.scales.tensor->shape.back();
  uint64_t matrices = 1;
  for (size_t i = 0; i + 2 < shape.size(); ++i) matrices *= shape[i];
  const uint64_t in = groups * format->group;  // fits: bounded by the file's bytes
  if (rows > INT32_MAX || in > INT32_MAX || matrices > INT32_MAX)
    ModuleError{p.weight, path}(ErrorCode::unsupported, cat("too large: ", shape_text(shape)));
  HostWeight w{*format, int(rows), int(in), p.weight.bytes(), p.scales.bytes(), {}, path, keep_, int(matrices)};
  if (p.biases) w.biases = p.biases.bytes();
  w.factors = global_factors(p, matrices, ModuleError{p.weight, path});
  if (p.names == TensorNames::blocks) {
    struct Kept {
      std::vector<std::byte> scales;
      std::shared_ptr<const void> files;
    };
    auto kept = std::make_shared<Kept>(Kept{repeated_scales(w.scales, matrices, rows, groups), keep_});
    w.scales = kept->scales;
    w.keep = std::move(kept);
  }
  return w;
}

/// A module [leading..., in], dense or quantized.
HostWeight Checkpoint::stored(const std::string& path, const std::vector<uint64_t>& leading, int in) {
  const std::string name = full(path);
  inputs_[name] = in;
  const auto format = quantized_format(name);
  const Parts p = parts(name);
  const TensorEntry& w = *p.weight.tensor;
  std::vector<uint64_t> wanted = leading;
  wanted.push_back(uint64_t(in));
  for (const Found* part : p.all()) {
    if (*part) claimed_.insert(part->tensor->name);
  }
  if (!format) {
    if (!is_float(w.dtype)) {
      throw Error(ErrorCode::unsupported, p.weight.file->where(),
                  cat("tensor ", in_quotes(w.name), ": expected f32, f16 or bf16, got ", to_string(w.dtype)));
    }
    if (w.shape != wanted) {
      throw Error(ErrorCode::bad_file, p.weight.file->where(),
                  cat("tensor ", in_quotes(w.name), ": expected ", shape_text(wanted), ", got ", shape_text(w.shape)));
    }
    return {Format::dense(w.dtype), int(leading.back()), in, p.weight.bytes(), {}, {}, name, keep_};
  }
  const TensorEntry& s = *p.scales.tensor;
  const uint64_t columns = s.shape.back() * format->group;  // fits: bounded by the file's bytes
  const bool same = w.shape.size() == wanted.size() && std::equal(leading.begin(), leading.end(), w.shape.begin());
  if (!same || columns != uint64_t(in)) {
    throw Error(
        ErrorCode::bad_file, p.weight.file->where(),
        cat("module ", in_quotes(name), ": expected ", shape_text(wanted), ", got weight ", shape_text(w.shape),
            " and scales ", shape_text(s.shape), ", that is ", to_string(*format), " with ", columns, " inputs"));
  }
  // What activations were divided by where they had eight bits too; here they have not.
  for (const char* leaf : {".input_scale", ".input_global_scale", ".k_scale", ".v_scale"}) {
    if (p.names != TensorNames::mlx) claimed_.insert(name + leaf);
  }
  return quantized_module(name);
}

std::vector<StoredModule> Checkpoint::modules() const {
  std::vector<StoredModule> result;
  for (const auto& [name, found] : tensors_) {
    const size_t dot = name.rfind('.');
    const std::string path = name.substr(0, dot == std::string::npos ? 0 : dot);
    const Parts p = dot == std::string::npos ? Parts() : parts(path);
    const bool in_module = p.weight && p.scales;
    const auto is = [&](const Found& part) { return part && part.tensor == found.tensor; };
    if (in_module && (is(p.scales) || is(p.biases) || is(p.global))) continue;
    StoredModule info{name, Format::dense(found.tensor->dtype), found.tensor->shape, found.bytes().size()};
    if (in_module && is(p.weight)) {
      info.name = path;
      info.format = *quantized_format(path);
      info.shape.back() = p.scales.tensor->shape.back() * info.format.group;
      for (const Found* part : {&p.scales, &p.biases, &p.global}) info.bytes += *part ? part->bytes().size() : 0;
    }
    result.push_back(std::move(info));
  }
  return result;
}

}  // namespace bumblebee
