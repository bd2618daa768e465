// Random weights, byte placement and the in-memory source.
#include "tests/support/memory_weights.h"

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/guarded_memory.h"
#include "quant/elements.h"

namespace bumblebee::testing_support {
namespace {

struct Owned {
  std::shared_ptr<void> codes, scales, biases;
};

std::vector<std::byte> encode(std::span<const float> values, DType dtype) {
  std::vector<std::byte> bytes(values.size() * size_t(size_of(dtype)));
  for (size_t i = 0; i < values.size(); ++i) store_float(bytes, dtype, i, values[i]);
  return bytes;
}

}  // namespace

std::span<const std::byte> place(std::span<const std::byte> bytes, size_t shift, std::shared_ptr<void>& keep) {
  const size_t size = bytes.size() + shift;
  std::byte* const memory = map_guarded(size, 8);
  keep = std::shared_ptr<void>(memory, [size](std::byte* p) { unmap_guarded(p, size, 8); });
  std::memcpy(memory + shift, bytes.data(), bytes.size());
  return {memory + shift, bytes.size()};
}

HostWeight dense_weight(std::span<const float> values, int out, int in, DType dtype, Misalignment shift) {
  BB_CHECK(values.size() == size_t(out) * size_t(in));
  auto owned = std::make_shared<Owned>();
  HostWeight weight{Format::dense(dtype), out, in, {}, {}, {}, "dense", owned};
  weight.codes = place(encode(values, dtype), shift.codes, owned->codes);
  return weight;
}

HostWeight random_dense(Random& random, int out, int in, DType dtype, double deviation, Misalignment shift) {
  return dense_weight(random.normals(size_t(out) * size_t(in), deviation), out, in, dtype, shift);
}

HostWeight random_affine(Random& random, int out, int in, const Format& format, double deviation, Misalignment shift) {
  const int top = (1 << format.bits) - 1;
  const size_t groups = size_t(out) * size_t(in / format.group);
  std::vector<uint8_t> codes(size_t(out) * size_t(in));
  for (uint8_t& code : codes) code = uint8_t(random.integer(0, top));
  std::vector<float> scales(groups), biases(groups);
  for (size_t g = 0; g < groups; ++g) {
    const double step = deviation * std::sqrt(12.0) / top;  // codes are uniform: this gives the wanted deviation
    scales[g] = float(step * random.uniform(0.5, 1.5) * (random.integer(0, 1) == 0 ? -1 : 1));
    biases[g] = -scales[g] * float(top) / 2 + float(random.normal(deviation / 4));
  }
  std::vector<std::byte> packed(codes.size() * format.bits / 8);
  for (int r = 0; r < out; ++r) {
    const size_t bytes = row_bytes(format, in);
    pack_codes(std::span<const uint8_t>(codes).subspan(size_t(r) * size_t(in), size_t(in)), format.bits,
               std::span(packed).subspan(size_t(r) * bytes, bytes));
  }
  auto owned = std::make_shared<Owned>();
  HostWeight weight{format, out, in, {}, {}, {}, "affine", owned};
  weight.codes = place(packed, shift.codes, owned->codes);
  weight.scales = place(encode(scales, format.scale), shift.scales, owned->scales);
  weight.biases = place(encode(biases, format.bias), shift.biases, owned->biases);
  return weight;
}

HostWeight random_floats(Random& random, int out, int in, const Format& format, double deviation, Misalignment shift) {
  std::vector<float> values = random.normals(size_t(out) * size_t(in), deviation);
  for (size_t first = 0; first < values.size(); first += format.group) {  // scales differ, and some codes are small
    const double size = std::exp2(random.integer(-3, 2));
    for (size_t i = first; i < first + format.group; ++i)
      values[i] = float(values[i] * size * (random.integer(0, 7) == 0 ? 1e-2 : 1));
  }
  const QuantizedMatrix q = quantize_floats(values, out, in, format, DType::f32);
  auto owned = std::make_shared<Owned>();
  HostWeight weight{format, out, in, {}, {}, {}, to_string(format), owned};
  weight.codes = place(q.codes, shift.codes, owned->codes);
  weight.scales = place(q.scales, shift.scales, owned->scales);
  return weight;
}

HostWeight random_weight(Random& random, int out, int in, const Format& format, double deviation, Misalignment shift) {
  if (format.codes != Format::Codes::uint) return random_floats(random, out, in, format, deviation, shift);
  if (format.kind == Format::Kind::dense) return random_dense(random, out, in, format.scale, deviation, shift);
  return random_affine(random, out, in, format, deviation, shift);
}

void MemoryWeights::add_matrix(const std::string& path, HostWeight weight) {
  weight.name = path;
  matrices_[path + ".weight"] = std::move(weight);
}

void MemoryWeights::add_stack(const std::string& path, HostWeight weight, int experts) {
  weight.out /= experts;
  weight.experts = experts;
  add_matrix(path, std::move(weight));
}

void MemoryWeights::add_vector(const std::string& name, HostWeight vector) {
  vector.name = name;
  vectors_[name] = std::move(vector);
}

void MemoryWeights::remove(const std::string& name_or_path) {
  BB_CHECK(matrices_.erase(name_or_path + ".weight") + vectors_.erase(name_or_path) == 1, name_or_path);
}

const HostWeight& MemoryWeights::claim(const std::string& name, const std::map<std::string, HostWeight>& from) {
  const auto it = from.find(name);
  if (it == from.end())
    throw Error(ErrorCode::bad_file, "memory", cat("tensor '", name, "': expected it, got nothing"));
  claimed_.insert(name);
  return it->second;
}

HostWeight MemoryWeights::matrix(const std::string& path, int out, int in) {
  const HostWeight& weight = claim(path + ".weight", matrices_);
  if (weight.out != out || weight.in != in) {
    throw Error(
        ErrorCode::bad_file, "memory",
        cat("tensor '", path, ".weight': expected [", out, ", ", in, "], got [", weight.out, ", ", weight.in, "]"));
  }
  return weight;
}

HostWeight MemoryWeights::experts(const std::string& path, int experts, int out, int in) {
  const HostWeight& weight = claim(path + ".weight", matrices_);
  if (weight.experts != experts || weight.out != out || weight.in != in) {
    throw Error(ErrorCode::bad_file, "memory",
                cat("tensor '", path, ".weight': expected [", experts, ", ", out, ", ", in, "], got [", weight.experts,
                    ", ", weight.out, ", ", weight.in, "]"));
  }
  return weight;
}

void MemoryWeights::add_depthwise(const std::string& name, HostWeight weight, bool by_torch) {
  add_vector(name, std::move(weight));
  if (by_torch) by_torch_.insert(name);
}

HostWeight MemoryWeights::depthwise(const std::string& name, int cols, int kernel, bool& by_torch) {
  const HostWeight& weight = claim(name, vectors_);
  if (weight.out != cols || weight.in != kernel)
    throw Error(
        ErrorCode::bad_file, "memory",
        cat("tensor '", name, "': expected [", cols, ", ", kernel, "], got [", weight.out, ", ", weight.in, "]"));
  by_torch = by_torch_.contains(name);
  return weight;
}

HostWeight MemoryWeights::vector(const std::string& name, int size) {
  const HostWeight& weight = claim(name, vectors_);
  if (weight.in != size)
    throw Error(ErrorCode::bad_file, "memory",
                cat("tensor '", name, "': expected [", size, "], got [", weight.in, "]"));
  return weight;
}

bool MemoryWeights::has(const std::string& name) const { return matrices_.contains(name) || vectors_.contains(name); }

void MemoryWeights::ignore(const std::string& name) { claimed_.insert(name); }

void MemoryWeights::leave_out(const std::string& prefix) {
  for (const std::string& name : unclaimed()) {
    if (name.starts_with(prefix)) claimed_.insert(name);
  }
}

std::vector<std::string> MemoryWeights::unclaimed() const {
  std::vector<std::string> left;
  for (const auto* map : {&matrices_, &vectors_}) {
    for (const auto& [name, weight] : *map) {
      if (!claimed_.contains(name)) left.push_back(name);
    }
  }
  return left;
}

}  // namespace bumblebee::testing_support
