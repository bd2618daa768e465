// Stacks of experts as Hugging Face's files of newer families have them: one tensor without `.weight` in its name for
// all experts, [experts, rows, in], with the rows of gate before those of up. mlx-lm cuts them apart; here both halves
// are read where they lie.
#include <array>

#include "base/error.h"
#include "io/checkpoint.h"
#include "io/quote.h"

namespace bumblebee {
namespace {

/// The families that do. Others have tensors of these names too: gpt-oss with the rows in turns, Qwen3-VL transposed.
bool has_fused_experts(const HfConfig& config) {
  const Json& text = config.text();
  const auto type = text.find("model_type");
  if (type == text.end() || !type->is_string()) return false;
  const auto& name = type->get_ref<const std::string&>();
  return name.starts_with("qwen3_5_moe") || name.starts_with("gemma4");
}

/// The tensor that a stack in mlx-lm's names may be part of; empty for other modules.
std::string tensor_of(std::string_view module) {
  constexpr std::array<std::string_view, 2> kStacks = {".switch_mlp.", ".experts.switch_glu."};
  for (const std::string_view stack : kStacks) {
    const size_t at = module.rfind(stack);
    if (at == std::string_view::npos) continue;
    const bool down = module.substr(at + stack.size()) == "down_proj";
    return cat(module.substr(0, at), ".experts.", down ? "down_proj" : "gate_up_proj");
  }
  return {};
}

}  // namespace

std::vector<FusedExperts> fused_experts(std::string_view tensor, const HfConfig& config) {
  const size_t dot = tensor.rfind('.');
  if (dot == std::string_view::npos || !tensor.substr(0, dot).ends_with(".experts") || !has_fused_experts(config))
    return {};
  const std::string_view leaf = tensor.substr(dot + 1), block = tensor.substr(0, dot - 8);
  const std::string stack = block.ends_with(".mlp") ? cat(block, ".switch_mlp.") : cat(block, ".experts.switch_glu.");
  const std::string name(tensor);
  if (leaf == "down_proj") return {{name, stack + "down_proj", 0, 1}};
  if (leaf != "gate_up_proj") return {};
  return {{name, stack + "gate_proj", 0, 2}, {name, stack + "up_proj", 1, 2}};
}

HostWeight Checkpoint::fused_stack(const FusedExperts& fused) const {
  const Found found = dense(fused.tensor);
  const TensorEntry& t = *found.tensor;
  if (t.shape.size() != 3 || t.shape[0] == 0 || t.shape[1] % fused.parts != 0 || t.shape[0] > INT32_MAX ||
      t.shape[1] > INT32_MAX || t.shape[2] > INT32_MAX) {
    throw Error(ErrorCode::bad_file, found.file->where(),
                cat("tensor ", in_quotes(t.name), ": expected [experts, ", fused.parts == 2 ? "gate and up" : "rows",
                    ", inputs], got ", shape_text(t.shape)));
  }
  const Format format = Format::dense(t.dtype);
  const int out = int(t.shape[1] / fused.parts), in = int(t.shape[2]);
  HostWeight stack{format, out, in, {}, {}, {}, fused.module, keep_, int(t.shape[0])};
  stack.codes = found.bytes().subspan(fused.part * uint64_t(out) * row_bytes(format, in));
  if (fused.parts > 1) stack.stack_rows = int(t.shape[1]);
  return stack;
}

/// The stack `name`; empty where no fused one has it.
std::optional<HostWeight> Checkpoint::fused(const std::string& name, int experts, int out, int in) {
  const std::string tensor = tensor_of(name);
  if (tensor.empty() || !find(tensor)) return std::nullopt;
  for (const FusedExperts& fused : fused_experts(tensor, config_)) {
    if (fused.module != name) continue;
    const Found found = dense(tensor);
    const std::vector<uint64_t> wanted = {uint64_t(experts), uint64_t(out) * fused.parts, uint64_t(in)};
    if (found.tensor->shape != wanted) {
      throw Error(ErrorCode::bad_file, found.file->where(),
                  cat("tensor ", in_quotes(tensor), ": expected ", shape_text(wanted), ", got ",
                      shape_text(found.tensor->shape)));
    }
    claimed_.insert(tensor);
    return fused_stack(fused);
  }
  return std::nullopt;
}

}  // namespace bumblebee
