// Plan every tensor, write the small files, then stream the weights. Exactness is measured on every element, not
// assumed.
#include "io/gguf_convert.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <map>
#include <tuple>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/output_paths.h"
#include "io/gguf.h"
#include "io/gguf_model.h"
#include "io/gguf_tokenizer.h"
#include "io/quote.h"
#include "io/tensor_stream.h"
#include "quant/elements.h"

namespace bumblebee {
namespace {

constexpr uint64_t kRegroupRows = 256;
constexpr float kLargestF16 = 65504.0f;

enum class Route : uint8_t { copy, regroup, encode };

struct TensorPlan {
  GgufTensorName source;
  Route route = Route::copy;
  MatrixTarget target;  // for copy only path (full name), dtype and shape
};

DType dense_dtype(GgufType type) {
  return type == GgufType::f32 ? DType::f32 : type == GgufType::f16 ? DType::f16 : DType::bf16;
}

std::string module_path(const std::string& name) { return name.substr(0, name.rfind('.')); }

class Converter {
 public:
  Converter(const GgufFile& file, const std::filesystem::path& target, const GgufConvertOptions& options)
      : file_(file), directory_(target), options_(options), pool_(options.threads) {}

  ConversionReport run(const ConversionProgress& progress) {
    if (!is_float(options_.dense))
      throw Error(ErrorCode::bad_request, "convert",
                  cat("dense type: expected f32, f16 or bf16, got ", to_string(options_.dense)));
    model_ = read_gguf_model(file_);
    const GgufTokenizer tokenizer = read_gguf_tokenizer(file_, model_.config["vocab_size"].get<int64_t>());
    for (const GgufTensorName& tensor : model_.tensors) plans_.push_back(plan(tensor));
    prepare_output_directory(directory_);
    write_text_file(directory_ / "tokenizer.json", tokenizer.tokenizer.dump(1) + "\n");
    write_text_file(directory_ / "tokenizer_config.json", tokenizer.tokenizer_config.dump(2) + "\n");
    write_configs(tokenizer);
    stream(progress);
    return std::move(report_);
  }

 private:
  TensorPlan plan(const GgufTensorName& source) const {
    const GgufTensor& tensor = *source.tensor;
    TensorPlan result{source, Route::copy, {}};
    const bool matrix = tensor.shape.size() == 2;
    result.target = {matrix ? module_path(source.name) : source.name, DType::f32, std::nullopt, tensor.shape};
    const bool regrid =
        options_.requantize && matrix && tensor.shape.back() % uint64_t(options_.requantize->group) == 0;
    if (matrix && gguf_affine(tensor.type)) {
      result.route = Route::regroup;
      result.target.spec = QuantSpec{gguf_affine(tensor.type)->bits, 32};
      result.target.dtype = fits_f16(tensor) ? DType::f16 : DType::f32;
    } else if (is_dense(tensor.type) && !regrid) {
      result.target.dtype = dense_dtype(tensor.type);
    } else {
      result.route = Route::encode;
      result.target.dtype = is_dense(tensor.type) ? dense_dtype(tensor.type) : options_.dense;
      if (regrid) result.target.spec = options_.requantize;
    }
    return result;
  }

  /// Whether every scale and bias of these blocks is exact in f16: the scale is one; the bias is one too, or the scale
  /// times a power of two, which can only overflow.
  bool fits_f16(const GgufTensor& tensor) const {
    const auto bytes = file_.bytes(tensor);
    const size_t block = size_t(gguf_block(tensor.type)->bytes);
    for (size_t at = 0; at < bytes.size(); at += block) {
      const GgufGroup group = split_gguf_block(tensor.type, bytes.data() + at);
      if (!std::isfinite(group.scale) || !std::isfinite(group.bias)) {
        throw Error(ErrorCode::bad_file, file_.where(),
                    cat("tensor ", in_quotes(tensor.name), ": block ", at / block,
                        ": expected finite scales, got something else"));
      }
      if (std::abs(group.bias) > kLargestF16) return false;
    }
    return true;
  }

  void write_configs(const GgufTokenizer& tokenizer) {
    Json config = model_.config, generation = Json::object();
    const Json eos = tokenizer.eos.size() == 1 ? Json(tokenizer.eos[0]) : Json(tokenizer.eos);
    for (Json* object : {&config, &generation}) {
      if (tokenizer.bos) (*object)["bos_token_id"] = *tokenizer.bos;
      if (tokenizer.pad) (*object)["pad_token_id"] = *tokenizer.pad;
      if (!tokenizer.eos.empty()) (*object)["eos_token_id"] = eos;
    }
    config["torch_dtype"] = options_.dense == DType::bf16  ? "bfloat16"
                            : options_.dense == DType::f16 ? "float16"
                                                           : "float32";
    if (const Json quantization = quantization_json(); !quantization.is_null()) {
      config["quantization"] = quantization;
      config["quantization_config"] = quantization;
    }
    write_config(directory_, config);
    write_text_file(directory_ / "generation_config.json", generation.dump(2) + "\n");
  }

  /// The width of most modules at the top, an entry for each one that differs, false for dense ones.
  Json quantization_json() const {
    std::map<std::tuple<int, int, QuantMode>, int> counts;
    for (const TensorPlan& plan : plans_) {
      if (const auto& spec = plan.target.spec) ++counts[{spec->bits, spec->group, spec->mode}];
    }
    if (counts.empty()) return nullptr;
    const auto [bits, group, mode] = std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) {
                                       return a.second < b.second;
                                     })->first;
    const QuantSpec top = {bits, group, mode};
    const auto entry = [](const QuantSpec& spec) {
      return Json{{"bits", spec.bits}, {"group_size", spec.group}, {"mode", to_string(spec.mode)}};
    };
    Json result = entry(top);
    for (const TensorPlan& plan : plans_) {
      if (plan.target.shape.size() != 2) continue;
      if (!plan.target.spec) {
        result[module_path(plan.source.name)] = false;
      } else if (*plan.target.spec != top) {
        result[plan.target.path] = entry(*plan.target.spec);
      }
    }
    return result;
  }

  static std::vector<TensorSpec> specs(const TensorPlan& plan) {
    if (plan.route == Route::copy) return {{plan.source.name, plan.target.dtype, plan.target.shape}};
    return tensors_of(plan.target);
  }

  void stream(const ConversionProgress& callback) {
    std::vector<TensorSpec> all;
    uint64_t total = 0, parameters = 0;
    for (const TensorPlan& plan : plans_) {
      for (TensorSpec& spec : specs(plan)) all.push_back(std::move(spec));
      total += plan.source.tensor->end - plan.source.tensor->begin;
      uint64_t count = 1;
      for (const uint64_t dim : plan.target.shape) count *= dim;
      parameters += count;
    }
    CheckpointWriter writer(directory_, all, parameters);
    ProgressMeter progress(callback, total);
    const StreamContext context{writer, pool_, progress, options_.variant};
    for (const TensorPlan& plan : plans_) {
      const double error = plan.route == Route::copy      ? copy(plan, context)
                           : plan.route == Route::regroup ? regroup(plan, context)
                                                          : encode(plan, context);
      uint64_t bytes = 0;
      for (const TensorSpec& spec : specs(plan)) bytes += spec.size_bytes();
      const bool quantized = plan.target.spec.has_value();
      report_.tensors.push_back({quantized ? plan.target.path : plan.source.name,
                                 gguf_type_name(plan.source.tensor->type), describe(plan.target), error == 0, error,
                                 bytes});
      report_.bytes += bytes;
    }
    writer.finish();
  }

  size_t row_size(const GgufTensor& tensor) const {
    const GgufBlock block = *gguf_block(tensor.type);
    return size_t(tensor.shape.back()) / size_t(block.elements) * size_t(block.bytes);
  }

  std::span<const std::byte> row(const TensorPlan& plan, uint64_t index) const {
    const GgufTensor& tensor = *plan.source.tensor;
    const uint64_t rows = tensor.shape[0];
    return file_.bytes(tensor).subspan(size_t(source_row(index, rows, plan.source.heads)) * row_size(tensor),
                                       row_size(tensor));
  }

  /// Dense, same type: bytes as they are but for what was added, rows in the checkpoint's order. A vector with heads (a
  /// bias of q or k) is reordered too.
  double copy(const TensorPlan& plan, const StreamContext& context) const {
    const GgufTensor& tensor = *plan.source.tensor;
    const auto bytes = file_.bytes(tensor);
    if (plan.source.added != 0) {
      std::vector<std::byte> less(bytes.begin(), bytes.end());
      for (size_t i = 0; i < less.size() / sizeof(float); ++i)
        store_float(less, DType::f32, i, load_float(bytes, DType::f32, i) - plan.source.added);
      context.writer.append(less);
    } else if (plan.source.heads == 0) {
      context.writer.append(bytes);
    } else {
      const size_t size = tensor.shape.size() == 2 ? row_size(tensor) : size_t(size_of(plan.target.dtype));
      for (uint64_t i = 0; i < tensor.shape[0]; ++i) {
        context.writer.append(bytes.subspan(size_t(source_row(i, tensor.shape[0], plan.source.heads)) * size, size));
      }
    }
    context.progress.add(plan.source.name, bytes.size());
    return 0;
  }

  double encode(const TensorPlan& plan, const StreamContext& context) const {
    const GgufTensor& tensor = *plan.source.tensor;
    RowReader rows{tensor.shape[0], tensor.shape.back(), [&](uint64_t index, std::span<float> values) {
                     decode_gguf(tensor.type, row(plan, index), values);
                   }};
    return stream_matrix(plan.target, rows, tensor.end - tensor.begin, context);
  }

  /// Blocks of 32 to groups of 32: the codes are put in element order and packed as MLX packs them, then every element
  /// is decoded from what was written and compared with what the block meant.
  double regroup(const TensorPlan& plan, const StreamContext& context) const {
    const GgufTensor& tensor = *plan.source.tensor;
    const uint64_t out = tensor.shape[0], groups = tensor.shape.back() / 32;
    const int bits = plan.target.spec->bits;
    const size_t code_bytes = size_t(bits) * 4, scale_bytes = size_t(size_of(plan.target.dtype)),
                 block_bytes = size_t(gguf_block(tensor.type)->bytes);
    std::vector<std::byte> codes, scales(size_t(out * groups) * scale_bytes), biases(scales.size());
    std::vector<double> errors(size_t(pool_.threads()), 0.0);
    for (uint64_t first = 0; first < out; first += kRegroupRows) {
      const uint64_t count = std::min(kRegroupRows, out - first);
      codes.resize(size_t(count * groups) * code_bytes);
      context.pool.for_ranges(int64_t(count), 1, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t i = begin; i < end; ++i) {
          const auto blocks = row(plan, first + uint64_t(i));
          for (uint64_t g = 0; g < groups; ++g) {
            const size_t index = size_t((first + uint64_t(i)) * groups + g);
            const auto block = blocks.subspan(size_t(g) * block_bytes, block_bytes);
            const Group target{std::span(codes).subspan(size_t(uint64_t(i) * groups + g) * code_bytes, code_bytes),
                               std::span(scales).subspan(index * scale_bytes, scale_bytes),
                               std::span(biases).subspan(index * scale_bytes, scale_bytes)};
            errors[size_t(thread)] =
                std::max(errors[size_t(thread)], write_group(tensor.type, block, bits, plan.target.dtype, target));
          }
        }
      });
      context.writer.append(codes);
      context.progress.add(plan.target.path, count * row_size(tensor));
    }
    context.writer.append(scales);
    context.writer.append(biases);
    return *std::max_element(errors.begin(), errors.end());
  }

  struct Group {
    std::span<std::byte> codes, scale, bias;
  };

  static double write_group(GgufType type, std::span<const std::byte> block, int bits, DType dtype,
                            const Group& target) {
    const GgufGroup group = split_gguf_block(type, block.data());
    pack_codes(group.codes, bits, target.codes);
    store_float(target.scale, dtype, 0, group.scale);
    store_float(target.bias, dtype, 0, group.bias);
    uint8_t back[32];
    float meant[32];
    unpack_codes(target.codes, bits, 0, back);
    decode_gguf(type, block, meant);
    const float scale = load_float(target.scale, dtype, 0), bias = load_float(target.bias, dtype, 0);
    double error = 0;
    for (int j = 0; j < 32; ++j)
      error = std::max(error, std::abs(double(scale * float(back[j]) + bias) - double(meant[j])));
    return error;
  }

  const GgufFile& file_;
  std::filesystem::path directory_;
  GgufConvertOptions options_;
  ThreadPool pool_;
  GgufModel model_;
  std::vector<TensorPlan> plans_;
  ConversionReport report_;
};

}  // namespace

ConversionReport convert_gguf(const std::filesystem::path& source, const std::filesystem::path& target,
                              const GgufConvertOptions& options, const ConversionProgress& progress) {
  require_apart(target, {&source, 1});
  const auto file = GgufFile::open(source);
  return Converter(*file, target, options).run(progress);
}

}  // namespace bumblebee
