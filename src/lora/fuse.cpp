// The rewriter of io with an adapter's rows in between; each row is stored once more here to measure what storing it
// loses.
#include "lora/fuse.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <limits>
#include <mutex>
#include <set>

#include "base/error.h"
#include "base/output_paths.h"
#include "lora/dense.h"
#include "lora/expert_paths.h"
#include "lora/writers.h"
#include "quant/elements.h"
#include "quant/float_codes.h"

namespace bumblebee::lora {
namespace {

using ModuleKind = nn::TargetModule::Kind;

std::string without(const std::string& name, std::string_view ending) {
  return name.ends_with(ending) ? name.substr(0, name.size() - ending.size()) : name;
}

/// `row` as it will be read back.
void store_and_load(std::span<const float> row, DType dtype, const std::optional<QuantSpec>& spec,
                    AffineVariant variant, std::span<float> back) {
  std::vector<std::byte> bytes(row.size() * size_t(size_of(dtype)));
  for (size_t i = 0; i < row.size(); ++i) {
    store_float(bytes, dtype, i, row[i]);
    back[i] = load_float(bytes, dtype, i);
  }
  if (!spec) return;
  const int in = int(row.size());
  const QuantizedMatrix q = quantize_as(*spec, back, 1, in, dtype, variant);
  decode_row<float>({format_of(*spec, dtype), 1, in, q.codes, q.scales, q.biases, "", nullptr}, 0, back);
}

class Fusion : public WeightChanges {
 public:
  /// Parts are found by the names in the checkpoint's files; what is reported has the model's.
  Fusion(const BoundAdapter& bound, const Checkpoint& checkpoint, AffineVariant variant) : variant_(variant) {
    for (const auto& [path, from] : bound.modules) {
      const std::string stored = checkpoint.full(path);
      const ModuleDelta& change = *from;
      if (change.weight || change.low_rank) {
        Part part(path);
        part.dense = std::make_unique<DenseDelta>(change, is_embedding(path), bound.adapter->dialect);
        parts_.emplace(stored, std::move(part));
      }
      if (change.bias || (change.low_rank && !change.low_rank->b_bias.empty())) {
        Part part(path + ".bias");
        part.bias = change.bias ? &*change.bias : nullptr;
        if (change.low_rank && !change.low_rank->b_bias.empty()) {
          part.added = &change.low_rank->b_bias;
          part.scale = change.low_rank->scale;
        }
        parts_.emplace(stored + ".bias", std::move(part));
      }
    }
    std::set<std::string> fused;
    for (const std::string& tensor : checkpoint.names()) {
      for (FusedExperts& stack : fused_experts(tensor, checkpoint.config())) fused.insert(std::move(stack.module));
    }
    for (const auto& [path, experts] : bound.experts) {
      const std::string stored = checkpoint.full(path);
      const bool stack = fused.contains(stored) || checkpoint.find(stored + ".weight");
      stack ? add_stack(path, stored, experts) : add_each(path, experts, checkpoint, *bound.adapter);
    }
  }

  bool touches(const std::string& name) const override { return parts_.contains(without(name, ".weight")); }

  void apply(const std::string& name, uint64_t row, std::span<float> values, DType dtype,
             const std::optional<QuantSpec>& spec) const override {
    const Part& part = parts_.at(without(name, ".weight"));
    std::vector<double> wanted(values.begin(), values.end());
    if (part.dense) {
      part.dense->change(int(row), wanted);
    } else if (!part.experts.empty()) {
      add_expert(part, row, wanted);
    } else {
      for (size_t i = 0; i < wanted.size(); ++i) {
        if (part.bias != nullptr) wanted[i] = double((*part.bias)[i]);
        if (part.added != nullptr) wanted[i] += part.scale * double((*part.added)[i]);
      }
    }
    std::vector<float> fused(wanted.begin(), wanted.end()), back(values.size());
    for (const float v : fused) {
      if (!std::isfinite(v)) throw Error(ErrorCode::bad_file, name, cat("the fused weight is not finite in row ", row));
    }
    store_and_load(fused, dtype, spec, variant_, back);
    double weight = 0, change = 0, error = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
      const double base = double(values[i]);
      weight += base * base;
      change += (wanted[i] - base) * (wanted[i] - base);
      error += (double(back[i]) - wanted[i]) * (double(back[i]) - wanted[i]);
    }
    std::copy(fused.begin(), fused.end(), values.begin());
    const std::lock_guard lock(mutex_);
    FuseLoss& loss = squares_[part.name];
    loss.weight += weight;
    loss.change += change;
    loss.error += error;
  }

  std::vector<FuseLoss> losses() const {
    std::vector<FuseLoss> losses;
    for (const auto& [name, squares] : squares_) {
      losses.push_back({name, std::sqrt(squares.weight), std::sqrt(squares.change), std::sqrt(squares.error)});
    }
    return losses;
  }

 private:
  struct Part {
    explicit Part(std::string of) : name(std::move(of)) {}
    std::string name;
    std::unique_ptr<DenseDelta> dense;          // of a weight
    std::vector<FactorView> experts;            // of a stack, or of one that lies by itself
    const std::vector<float>* bias = nullptr;   // instead of the base's
    double scale = 0;                           // of what is added
    const std::vector<float>* added = nullptr;  // PEFT's bias of B
  };

  /// The rewriter writes a stack under mlx-lm's name, however the file has it.
  void add_stack(const std::string& path, const std::string& stored, const std::vector<FactorView>& experts) {
    Part part(path);
    part.experts = experts;
    parts_.emplace(stored, std::move(part));
  }

  /// A module for each of them.
  void add_each(const std::string& path, const std::vector<FactorView>& experts, const Checkpoint& checkpoint,
                const Adapter& adapter) {
    const std::string each = each_name(path);
    const size_t number = each.find('#');
    if (number == std::string::npos)
      cannot_write(adapter, path, "expected a stack, or a module for each expert, in the base's files, got neither");
    for (size_t e = 0; e < experts.size(); ++e) {
      if (experts[e].rank == 0) continue;
      std::string one = each;
      one.replace(number, 1, std::to_string(e));
      Part part(path);
      part.experts = {experts[e]};
      parts_.emplace(checkpoint.full(one), std::move(part));
    }
  }

  /// Row `row` of the experts' matrices, one below the other.
  static void add_expert(const Part& part, uint64_t row, std::span<double> values) {
    size_t out = 0;
    for (const FactorView& expert : part.experts)
      if (expert.rank > 0) out = expert.b.size() / size_t(expert.rank);
    if (out == 0) return;
    const FactorView& own = part.experts[size_t(row) / out];
    for (size_t k = 0; k < size_t(own.rank); ++k) {
      const double factor = double(own.scale) * double(own.b[size_t(row) % out * size_t(own.rank) + k]);
      for (size_t c = 0; c < values.size(); ++c) values[c] += factor * double(own.a[k * values.size() + c]);
    }
  }

  std::map<std::string, Part> parts_;
  AffineVariant variant_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, FuseLoss> squares_;
};

/// With a tied head there is one weight for two modules: it can hold the change only when both mean the same.
void check_head(BoundAdapter& bound, const Base& base) {
  if (!base.tied_head) return;
  std::string table;
  for (const nn::TargetModule& module : base.target_modules) {
    if (module.kind == ModuleKind::embedding) table = module.name;
  }
  const bool head = bound.modules.contains("lm_head"), embedding = bound.modules.contains(table);
  if (!head && !embedding) return;
  if (bound.adapter->dialect == Dialect::mlx && head && embedding) {  // bind_to_base() spelled out that they are one
    bound.modules.erase("lm_head");
    return;
  }
  cannot_write(
      *bound.adapter, head ? "lm_head" : table,
      "the base's head is tied to its embedding and the adapter changes them differently: apply it at run time");
}

void check_parts(const BoundAdapter& bound, const Base& base) {
  const Adapter& adapter = *bound.adapter;
  for (const auto& [path, experts] : bound.experts) {
    for (const FactorView& expert : experts)
      if (!expert.bias.empty())
        cannot_write(adapter, path, "experts have no bias here, and lora_bias needs one: apply it at run time");
  }
  for (const nn::TargetModule& module : base.target_modules) {
    const auto it = bound.modules.find(module.name);
    if (it == bound.modules.end() || !it->second->low_rank) continue;
    if (!it->second->low_rank->b_bias.empty() && !module.bias)
      cannot_write(adapter, module.name, "the base has no bias here, and lora_bias needs one: apply it at run time");
    if (module.kind == ModuleKind::embedding && adapter.dialect == Dialect::peft &&
        !it->second->low_rank->magnitude.empty())
      cannot_write(adapter, module.name, "DoRA of a PEFT embedding cannot be fused row by row: apply it at run time");
  }
}

}  // namespace

Base base_of(const Checkpoint& checkpoint, const std::string& name) {
  Base base;
  base.name = name;
  const HfConfig& config = checkpoint.config();
  bool head = false;
  const Json& text = config.text();
  const int layers = text.contains("num_hidden_layers") && text["num_hidden_layers"].is_number_integer()
                         ? text["num_hidden_layers"].get<int>()
                         : std::numeric_limits<int>::max();
  std::map<std::string, size_t> stacks;  // of experts that lie apart, in target_modules
  for (const StoredModule& stored : checkpoint.modules()) {
    const bool dense = stored.format.kind == Format::Kind::dense;
    for (const FusedExperts& fused : fused_experts(stored.name, config)) {
      const std::string path = checkpoint.plain(fused.module);
      if (path.empty() || layer_of(path) >= layers) continue;
      const HostWeight stack = checkpoint.fused_stack(fused);
      base.target_modules.push_back({.name = path,
                                     .in = stack.in,
                                     .out = stack.out,
                                     .kind = ModuleKind::experts,
                                     .experts = stack.experts,
                                     .each = each_name(path)});
    }
    if (dense && !stored.name.ends_with(".weight")) continue;  // biases and buffers
    const std::string in_file = dense ? without(stored.name, ".weight") : stored.name, path = checkpoint.plain(in_file);
    if (path.empty() || layer_of(path) >= layers) continue;  // layers after the last guess tokens ahead
    nn::TargetModule module{path, 0, 0, ModuleKind::linear, bool(checkpoint.find(in_file + ".bias"))};
    if (stored.shape.size() == 1) {
      module.kind = ModuleKind::norm;
      module.in = module.out = int(stored.shape[0]);
    } else if (stored.shape.size() == 2) {
      module.out = int(stored.shape[0]);
      module.in = int(stored.shape[1]);
      if (is_embedding(path)) {
        module.kind = ModuleKind::embedding;
        std::swap(module.in, module.out);
      }
    } else if (stored.shape.size() == 3) {
      const bool heads = path.ends_with(".embed_q") || path.ends_with(".unembed_out");
      module.kind = heads ? ModuleKind::heads : ModuleKind::experts;
      module.out = int(stored.shape[1]);
      module.in = int(stored.shape[2]);
    } else {
      continue;
    }
    if (path.find(".experts.") != std::string::npos) module.kind = ModuleKind::experts;
    module.router = path.ends_with(".gate") || path.ends_with(".router");
    if (module.kind == ModuleKind::experts) {
      const ExpertPath one = expert_path(path);
      const std::string stack = stack_name(one.each);
      if (stack.empty()) {
        module.experts = stored.shape.size() == 3 ? int(stored.shape[0]) : 0;
        module.each = each_name(path);
      } else {
        const auto [at, added] = stacks.emplace(stack, base.target_modules.size());
        if (!added) {
          int& experts = base.target_modules[at->second].experts;
          experts = std::max(experts, one.expert + 1);
          continue;
        }
        module.name = stack;
        module.experts = one.expert + 1;
        module.each = one.each;
      }
    }
    head = head || path == "lm_head";
    base.target_modules.push_back(std::move(module));
  }
  base.tied_head = bool_or(config.text(), "tie_word_embeddings", config.path.string(), !head);
  if (base.tied_head && !head) {
    for (const nn::TargetModule& module : base.target_modules) {
      if (module.kind != ModuleKind::embedding) continue;
      base.target_modules.push_back({"lm_head", module.out, module.in, ModuleKind::linear, false});
      break;
    }
  }
  return base;
}

FuseReport fuse_checkpoint(const std::filesystem::path& source, const std::filesystem::path& target,
                           const Adapter& adapter, const FuseOptions& options, const ConversionProgress& progress) {
  require_apart(target, {&source, 1});
  auto checkpoint = Checkpoint::open(source);
  checkpoint->set_inputs(options.inputs);
  const Base base = base_of(*checkpoint, source.string());
  BoundAdapter bound = bind_to_base(adapter, base);
  check_head(bound, base);
  check_parts(bound, base);
  const Fusion fusion(bound, *checkpoint, options.variant);
  checkpoint.reset();
  RewriteOptions rewrite;
  rewrite.dequantize = options.dequantize;
  rewrite.dtype = options.dtype;
  rewrite.variant = options.variant;
  rewrite.threads = options.threads;
  rewrite.changes = &fusion;
  rewrite.inputs = options.inputs;
  FuseReport report;
  report.conversion = rewrite_checkpoint(source, target, rewrite, progress);
  report.losses = fusion.losses();
  return report;
}

}  // namespace bumblebee::lora
