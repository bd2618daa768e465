// A plan per module or lone tensor, then one pass over the data.
#include "io/quantize_checkpoint.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/output_paths.h"
#include "io/checkpoint.h"
#include "io/quote.h"
#include "io/tensor_stream.h"
#include "quant/elements.h"

namespace bumblebee {
namespace {

namespace fs = std::filesystem;

struct ModulePlan {
  StoredModule module;
  bool encode = false;  // through f32; else bytes are copied
  MatrixTarget target;
  std::optional<FusedExperts> fused = std::nullopt;  // what `module` is cut from, which is called otherwise
};

class Rewriter {
 public:
  Rewriter(const fs::path& source, const fs::path& target, const RewriteOptions& options)
      : checkpoint_(Checkpoint::open(source)), directory_(target), options_(options), pool_(options.threads) {
    checkpoint_->set_inputs(options.inputs);
  }

  ConversionReport run(const ConversionProgress& progress) {
    check_options();
    const bool foreign = checkpoint_->config().quantization.names() != TensorNames::mlx;
    for (const StoredModule& module : checkpoint_->modules()) {
      if (foreign && is_activation_scale(module.name)) continue;
      const std::vector<FusedExperts> stacks = fused_experts(module.name, checkpoint_->config());
      for (const FusedExperts& stack : stacks) plans_.push_back(plan(stack, module));
      if (stacks.empty()) plans_.push_back(plan(module));
    }
    prepare_output_directory(directory_);
    copy_other_files();
    write_config(directory_, new_config());
    stream(progress);
    return std::move(report_);
  }

 private:
  /// What is done with once the plan is; plans of one fused tensor follow each other, and the last one has it.
  std::vector<Checkpoint::Found> parts_of(const ModulePlan& plan) const {
    if (plan.fused && plan.fused->part + 1 < plan.fused->parts) return {};
    if (plan.fused) return {checkpoint_->find(plan.fused->tensor)};
    if (plan.module.format.kind == Format::Kind::dense) return {checkpoint_->find(plan.module.name)};
    std::vector<Checkpoint::Found> found;
    const Checkpoint::Parts parts = checkpoint_->parts(plan.module.name);
    for (const Checkpoint::Found* part : parts.all()) {
      if (*part) found.push_back(*part);
    }
    return found;
  }

  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorCode::bad_request, checkpoint_->directory().string(), what);
  }

  void check_options() const {
    if (options_.dtype && !is_float(*options_.dtype))
      refuse(cat("dense type: expected f32, f16 or bf16, got ", to_string(*options_.dtype)));
    if (options_.quantize && options_.dequantize) refuse("expected either quantize or dequantize, got both");
    if (checkpoint_->config().quantization.names() != TensorNames::mlx && !options_.dequantize)
      refuse("its quantized tensors have another tool's names: it can be loaded as it is, or dequantized");
    if (options_.quantize || options_.dequantize) {
      for (const StoredModule& module : checkpoint_->modules()) {
        if (!module.name.ends_with("_blocks") || module.format.scale != DType::u8) continue;
        refuse(cat("experts in blocks, ", in_quotes(module.name),
                   ": they can be loaded as they are, and are neither quantized nor dequantized here"));
      }
    }
    if (!options_.quantize) return;
    const QuantSpec spec = *options_.quantize;
    if (spec.mode == QuantMode::affine ? !affine_bits_ok(spec.bits) || !affine_group_ok(spec.group)
                                       : spec != QuantSpec::of(spec.mode)) {
      refuse(cat("expected 2, 3, 4, 5, 6 or 8 bits and group 32, 64 or 128, got ", spec.bits, " bits and group ",
                 spec.group));
    }
    for (const StoredModule& module : checkpoint_->modules()) {
      if (module.format.kind == Format::Kind::affine) {
        refuse(cat("cannot quantize to ", to_string(spec), ": module ", in_quotes(module.name), " is already ",
                   to_string(module.format)));
      }
    }
  }

  /// Linear, Embedding, SwitchLinear and MultiLinear weights; everything else of two dimensions in these families is
  /// one of them.
  static bool quantizable(const StoredModule& module) {
    const bool stack =
        module.shape.size() == 3 &&
        (module.name.find(".switch_mlp.") != std::string::npos || module.name.find(".experts.") != std::string::npos ||
         module.name.find(".embed_q.") != std::string::npos || module.name.find(".unembed_out.") != std::string::npos);
    return module.name.ends_with(".weight") && (module.shape.size() == 2 || stack);
  }

  ModulePlan plan(const StoredModule& module) {
    ModulePlan result{module, false, {}};
    const bool dense = module.format.kind == Format::Kind::dense;
    if (dense && !is_float(module.format.scale)) {
      if (options_.quantize || options_.dtype)
        report_.notes.push_back(
            cat(in_quotes(module.name), " of type ", to_string(module.format.scale), " left as it is"));
      return result;
    }
    // What balances the choice of experts stays as exact as it is: rounded, near ties choose others.
    const bool kept = module.name.ends_with(".e_score_correction_bias") || module.name.ends_with(".expert_bias");
    result.target = {module.name, kept ? module.format.scale : options_.dtype.value_or(module.format.scale),
                     std::nullopt, module.shape};
    const bool changed = options_.changes != nullptr && options_.changes->touches(module.name);
    if (!dense) {
      result.encode = options_.dequantize || changed;
      const bool floats = module.format.codes != Format::Codes::uint;
      if (floats) result.target.dtype = options_.dtype.value_or(DType::bf16);  // whose weights they were is not known
      if (changed && !options_.dequantize) result.target.spec = spec_of(module.format);
      if (changed && !options_.dequantize && checkpoint_->parts(module.name).global)
        refuse(cat("module ", in_quotes(module.name), " has a global scale, with which nothing is quantized here"));
      if (!options_.dequantize && options_.dtype && !floats && *options_.dtype != module.format.scale) {
        report_.notes.push_back(cat(in_quotes(module.name), ": scales left ", to_string(module.format.scale),
                                    ", changing them would change the weights"));
      }
      return result;
    }
    result.encode = changed || result.target.dtype != module.format.scale;
    if (options_.quantize && quantizable(module)) {
      const std::string path = module.name.substr(0, module.name.size() - std::string_view(".weight").size());
      const std::optional<QuantSpec> spec = checkpoint_->config().quantized_as(path, *options_.quantize);
      if (spec && module.shape.back() % uint64_t(spec->group) == 0 && module.bytes > 0) {
        result.encode = true;
        result.target.path = path;
        result.target.spec = *spec;
      } else if (spec) {
        report_.notes.push_back(
            cat(in_quotes(path), " left dense: ", module.shape.back(), " inputs are not a multiple of ", spec->group));
      }
    }
    return result;
  }

  /// A stack of experts by the name that mlx-lm's files have: under Hugging Face's, only dense ones are known.
  ModulePlan plan(const FusedExperts& fused, const StoredModule& tensor) {
    StoredModule module = tensor;
    module.name = fused.module + ".weight";
    const HostWeight stack = checkpoint_->fused_stack(fused);
    module.shape = {uint64_t(stack.experts), uint64_t(stack.out), uint64_t(stack.in)};
    module.bytes /= fused.parts;
    ModulePlan result = plan(module);
    result.encode = true;
    result.fused = fused;
    return result;
  }

  std::vector<TensorSpec> specs(const ModulePlan& plan) const {
    std::vector<TensorSpec> result;
    if (!plan.encode) {
      for (const Checkpoint::Found& part : parts_of(plan)) result.push_back(*part.tensor);
    } else if (plan.target.spec || plan.module.format.kind == Format::Kind::affine) {
      result = tensors_of(plan.target);
    } else {
      result = {{plan.module.name, plan.target.dtype, plan.target.shape}};
    }
    return result;
  }

  Json new_config() const {
    Json config = checkpoint_->config().json;
    const auto erase = [&](Json& object) {
      object.erase("quantization");
      object.erase("quantization_config");
    };
    if (options_.dequantize || options_.quantize) {
      erase(config);
      if (checkpoint_->config().has_text_config()) erase(config["text_config"]);
    }
    if (options_.quantize) {
      const auto entry = [](QuantSpec spec) {
        return Json{{"bits", spec.bits}, {"group_size", spec.group}, {"mode", to_string(spec.mode)}};
      };
      Json quantization = entry(*options_.quantize);
      for (const ModulePlan& plan : plans_) {
        if (plan.target.spec && *plan.target.spec != *options_.quantize)
          quantization[plan.target.path] = entry(*plan.target.spec);
      }
      config["quantization"] = config["quantization_config"] = quantization;
    }
    if (options_.dtype) {
      const char* name = *options_.dtype == DType::f32   ? "float32"
                         : *options_.dtype == DType::f16 ? "float16"
                                                         : "bfloat16";
      Json& text = checkpoint_->config().has_text_config() ? config["text_config"] : config;
      text[text.contains("dtype") ? "dtype" : "torch_dtype"] = name;
    }
    return config;
  }

  /// Tokenizer, templates, generation defaults, licence: whatever is text and not weights, code or what this program
  /// writes.
  void copy_other_files() {
    static const std::set<std::string> kKinds = {".json", ".jinja", ".txt", ".model", ".tiktoken", ".jsonl", ".md"};
    for (const auto& entry : fs::directory_iterator(checkpoint_->directory())) {
      const std::string name = entry.path().filename().string();
      const bool ours = name == "config.json" || name.ends_with(".index.json") ||
                        (name == "hf_quant_config.json" && (options_.quantize || options_.dequantize));
      if (entry.is_directory() && name[0] != '.') copy_directory(entry.path());
      if (!entry.is_regular_file() || ours) continue;
      const bool text = kKinds.count(entry.path().extension().string()) > 0 || name == "LICENSE" || name == "NOTICE";
      if (text) {
        std::error_code error;
        fs::copy_file(entry.path(), directory_ / name, fs::copy_options::overwrite_existing, error);
        if (error) throw Error(ErrorCode::bad_file, entry.path().string(), cat("cannot copy: ", error.message()));
      } else if (!name.ends_with(".safetensors") && name[0] != '.') {
        report_.notes.push_back(cat("file ", in_quotes(name), " not copied"));
      }
    }
  }

  /// Templates beside the first one (tool_use, rag) have a folder; the others hold what is no part of the model.
  void copy_directory(const fs::path& folder) {
    if (folder.filename() != "additional_chat_templates") {
      report_.notes.push_back(cat("folder ", in_quotes(folder.filename().string()), " not copied"));
      return;
    }
    std::error_code error;
    fs::create_directory(directory_ / folder.filename(), error);
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (!entry.is_regular_file() || entry.path().extension() != ".jinja") continue;
      fs::copy_file(entry.path(), directory_ / folder.filename() / entry.path().filename(),
                    fs::copy_options::overwrite_existing, error);
      if (error) throw Error(ErrorCode::bad_file, entry.path().string(), cat("cannot copy: ", error.message()));
    }
  }

  void stream(const ConversionProgress& callback) {
    std::vector<TensorSpec> all;
    uint64_t total = 0;
    for (const ModulePlan& plan : plans_) {
      for (TensorSpec& spec : specs(plan)) all.push_back(std::move(spec));
      total += plan.module.bytes;
    }
    if (all.empty()) refuse("expected at least one tensor, got none");
    CheckpointWriter writer(directory_, all, checkpoint_->parameters());
    ProgressMeter progress(callback, total);
    const StreamContext context{writer, pool_, progress, options_.variant};
    for (const ModulePlan& plan : plans_) {
      const double error = plan.encode ? encode(plan, context) : copy(plan, context);
      uint64_t bytes = 0;
      for (const TensorSpec& spec : specs(plan)) bytes += spec.size_bytes();
      const bool quantized = plan.encode && plan.target.spec;
      report_.tensors.push_back({quantized ? plan.target.path : plan.module.name, to_string(plan.module.format),
                                 plan.encode ? describe(plan.target) : to_string(plan.module.format), error == 0, error,
                                 bytes});
      report_.bytes += bytes;
    }
    writer.finish();
  }

  double copy(const ModulePlan& plan, const StreamContext& context) const {
    for (const Checkpoint::Found& part : parts_of(plan)) {
      const auto bytes = part.bytes();
      context.writer.append(bytes);
      pages_done(bytes);
      context.progress.add(plan.module.name, bytes.size());
    }
    return 0;
  }

  double encode(const ModulePlan& plan, const StreamContext& context) const {
    const StoredModule& module = plan.module;
    if (module.bytes == 0) return 0;
    const bool dense = module.format.kind == Format::Kind::dense;
    RowReader rows;
    rows.in = module.shape.empty() ? 1 : module.shape.back();
    rows.out = 1;
    for (size_t i = 0; i + 1 < module.shape.size(); ++i) rows.out *= module.shape[i];
    if (rows.in > uint64_t(INT32_MAX) || rows.out > uint64_t(INT32_MAX))
      refuse(cat("tensor ", in_quotes(module.name), " is too large: ", shape_text(module.shape)));
    HostWeight weight{module.format, int(rows.out), int(rows.in), {}, {}, {}, module.name, nullptr};
    if (plan.fused) {
      weight = checkpoint_->fused_stack(*plan.fused);
    } else if (dense) {
      weight.codes = checkpoint_->find(module.name).bytes();
    }
    if (!dense) weight = checkpoint_->quantized_module(module.name);
    const uint64_t each = uint64_t(weight.out);  // rows of a matrix
    const bool changed = options_.changes != nullptr && options_.changes->touches(module.name);
    rows.decode = [&](uint64_t row, std::span<float> values) {
      decode_row<float>(expert_of(weight, int(row / each)), int(row % each), values);
      if (changed) options_.changes->apply(module.name, row, values, plan.target.dtype, plan.target.spec);
    };
    const double error = stream_matrix(plan.target, rows, module.bytes, context);
    for (const Checkpoint::Found& part : parts_of(plan)) pages_done(part.bytes());
    return error;
  }

  std::unique_ptr<Checkpoint> checkpoint_;
  fs::path directory_;
  RewriteOptions options_;
  ThreadPool pool_;
  std::vector<ModulePlan> plans_;
  ConversionReport report_;
};

}  // namespace

ConversionReport rewrite_checkpoint(const fs::path& source, const fs::path& target, const RewriteOptions& options,
                                    const ConversionProgress& progress) {
  require_apart(target, {&source, 1});
  return Rewriter(source, target, options).run(progress);
}

}  // namespace bumblebee
