// A minimal safetensors reader: header, then views into the file's bytes.
#include "tests/support/golden_file.h"

#include <nlohmann/json.hpp>

#include <cstring>
#include <stdexcept>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "quant/elements.h"

namespace bumblebee::testing_support {
namespace {

DType dtype_of(const std::string& name) {
  static const std::map<std::string, DType> names = {{"F64", DType::f64},   {"F32", DType::f32}, {"F16", DType::f16},
                                                     {"BF16", DType::bf16}, {"I64", DType::i64}, {"I32", DType::i32},
                                                     {"U32", DType::u32},   {"U8", DType::u8}};
  return names.at(name);
}

template <class T>
double element(std::span<const std::byte> bytes, size_t i) {
  T value;
  std::memcpy(&value, bytes.data() + i * sizeof value, sizeof value);
  return double(value);
}

}  // namespace

size_t GoldenTensor::size() const { return bytes.size() / size_t(size_of(dtype)); }

std::vector<double> GoldenTensor::doubles() const {
  std::vector<double> values(size());
  for (size_t i = 0; i < values.size(); ++i) {
    switch (dtype) {
      case DType::f64: values[i] = element<double>(bytes, i); break;
      case DType::i32: values[i] = element<int32_t>(bytes, i); break;
      case DType::u32: values[i] = element<uint32_t>(bytes, i); break;
      case DType::i64: values[i] = element<int64_t>(bytes, i); break;
      default: values[i] = double(load_float(bytes, dtype, i)); break;
    }
  }
  return values;
}

std::vector<float> GoldenTensor::floats() const {
  const std::vector<double> wide = doubles();
  return {wide.begin(), wide.end()};
}

std::vector<int32_t> GoldenTensor::ints() const {
  const std::vector<double> wide = doubles();
  return {wide.begin(), wide.end()};
}

std::string golden_path(const std::string& name) { return std::string(BB_TEST_DATA) + "/goldens/" + name; }

GoldenFile::GoldenFile(const std::string& name)
    : name_(name), file_(std::make_shared<const std::string>(read_text_file(golden_path(name), size_t{64} << 20))) {
  const auto bytes = std::as_bytes(std::span<const char>(*file_));
  const uint64_t length = uint64_t(element<uint64_t>(bytes, 0));
  const Json header = parse_json(std::string_view(*file_).substr(8, length), name);
  const auto data = bytes.subspan(8 + length);
  for (const auto& [key, entry] : header.items()) {
    if (key == "__metadata__") {
      metadata_ = entry.get<std::map<std::string, std::string>>();
      continue;
    }
    const auto offsets = entry.at("data_offsets").get<std::vector<size_t>>();
    tensors_[key] = {dtype_of(entry.at("dtype")), entry.at("shape").get<std::vector<int>>(),
                     data.subspan(offsets[0], offsets[1] - offsets[0])};
  }
}

const GoldenTensor& GoldenFile::at(const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) throw std::runtime_error(cat(name_, ": no golden tensor '", name, "'"));
  return it->second;
}

const std::string& GoldenFile::metadata(const std::string& key) const { return metadata_.at(key); }

}  // namespace bumblebee::testing_support
