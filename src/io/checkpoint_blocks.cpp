// Stacks of experts as OpenAI's own files have them: codes of mxfp4 in blocks of sixteen bytes, and the rows of gate
// and up in turns in one tensor.
#include "base/error.h"
#include "io/checkpoint.h"
#include "io/quote.h"

namespace bumblebee {
namespace {

/// Where the rows of a module lie: in `tensor` from row `first` on, `step` rows apart.
struct Place {
  std::string tensor;
  uint64_t first = 0, step = 1;
};

Place place_of(const std::string& module) {
  const auto ends = [&](std::string_view leaf) { return module.ends_with(leaf); };
  if (ends(".gate_proj")) return {module.substr(0, module.size() - 9) + "gate_up_proj", 0, 2};
  if (ends(".up_proj")) return {module.substr(0, module.size() - 7) + "gate_up_proj", 1, 2};
  return {module, 0, 1};
}

}  // namespace

/// The stack `name`; empty where there are no blocks. Nothing is read.
std::optional<HostWeight> Checkpoint::blocks(const std::string& name, int experts, int out, int in) {
  const Place place = place_of(name);
  const Found codes = find(place.tensor + "_blocks"), scales = find(place.tensor + "_scales");
  if (!codes || !scales) return std::nullopt;
  const uint64_t rows = uint64_t(out) * place.step, groups = uint64_t(in) / 32;
  const std::vector<uint64_t> scales_shape = {uint64_t(experts), rows, groups};
  std::vector<uint64_t> codes_shape = scales_shape;
  codes_shape.push_back(16);
  const auto check = [&](const Found& part, const std::vector<uint64_t>& shape) {
    const TensorEntry& t = *part.tensor;
    if (t.dtype != DType::u8 || t.shape != shape || in % 32 != 0) {
      throw Error(ErrorCode::bad_file, part.file->where(),
                  cat("tensor ", in_quotes(t.name), ": expected u8 ", shape_text(shape), ", got ", to_string(t.dtype),
                      " ", shape_text(t.shape)));
    }
    claimed_.insert(t.name);
  };
  check(codes, codes_shape);
  check(scales, scales_shape);
  const size_t row = size_t(in) / 2;
  HostWeight stack{Format::mxfp4(),
                   out,
                   in,
                   codes.bytes().subspan(place.first * row),
                   scales.bytes().subspan(place.first * groups),
                   {},
                   name,
                   keep_,
                   experts};
  if (place.step > 1) {
    stack.codes_stride = place.step * row;
    stack.scales_stride = place.step * groups;
  }
  return stack;
}

/// The vectors of `name`, a module's bias, from the tensor that has them beside blocks; a copy.
std::optional<HostWeight> Checkpoint::block_biases(const std::string& name, int experts, int out) {
  constexpr std::string_view kLeaf = ".bias";
  if (!name.ends_with(kLeaf)) return std::nullopt;
  const Place place = place_of(name.substr(0, name.size() - kLeaf.size()));
  const Found found = find(place.tensor + "_bias");
  if (!found) return std::nullopt;
  const TensorEntry& t = *found.tensor;
  const std::vector<uint64_t> shape = {uint64_t(experts), uint64_t(out) * place.step};
  if (!is_float(t.dtype) || t.shape != shape) {
    throw Error(ErrorCode::bad_file, found.file->where(),
                cat("tensor ", in_quotes(t.name), ": expected floats ", shape_text(shape), ", got ", to_string(t.dtype),
                    " ", shape_text(t.shape)));
  }
  claimed_.insert(t.name);
  const size_t size = size_t(size_of(t.dtype));
  const auto bytes = std::make_shared<std::vector<std::byte>>();
  for (uint64_t i = place.first; i < shape[0] * shape[1]; i += place.step) {
    const auto one = found.bytes().subspan(i * size, size);
    bytes->insert(bytes->end(), one.begin(), one.end());
  }
  return HostWeight{Format::dense(t.dtype), 1, experts * out, *bytes, {}, {}, name, bytes};
}

}  // namespace bumblebee
