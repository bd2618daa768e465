// The GGUF encoding, versions 2 and 3, little-endian: typed metadata and tensor descriptions over a mapped file. Every
// length, count and offset is checked against the file before it is used; what the metadata mean is for gguf_model.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "io/gguf_blocks.h"

namespace bumblebee {

/// One tensor. Shape is row-major, slowest first: the reverse of the file's order.
struct GgufTensor {
  std::string name;
  GgufType type = GgufType::f32;
  std::vector<uint64_t> shape;
  uint64_t begin = 0, end = 0;  // bytes of the file
};

/// Kinds of metadata values; numbers are the file's.
enum class GgufKind : uint32_t { u8 = 0, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// A metadata value: checked to lie inside the file, decoded when asked for.
struct GgufValue {
  GgufKind kind = GgufKind::u8;
  GgufKind element = GgufKind::u8;   // of arrays
  uint64_t count = 1;                // of arrays
  std::span<const std::byte> bytes;  // of the value, or of all elements
};

class GgufFile {
 public:
  /// Throws Error(bad_file) naming the file and the key or tensor; Error(unsupported) for another version, byte order,
  /// or a tensor type that cannot be decoded.
  static std::shared_ptr<const GgufFile> open(const std::filesystem::path& path);
  /// The same over bytes in memory, which must outlive the result.
  static std::shared_ptr<const GgufFile> parse(std::span<const std::byte> bytes, std::string where);

  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* find_tensor(std::string_view name) const;
  std::span<const std::byte> bytes(const GgufTensor& tensor) const {
    return file_.subspan(size_t(tensor.begin), size_t(tensor.end - tensor.begin));
  }
  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
  const std::string& where() const { return where_; }

  /// Typed access. Absent keys give nothing; a value of another kind or range throws Error(bad_config) naming the key.
  bool has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }
  std::optional<int64_t> integer(std::string_view key, int64_t low, int64_t high) const;
  std::optional<float> number(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::string> string(std::string_view key) const;  // valid UTF-8
  /// Views into the file.
  std::optional<std::vector<std::string_view>> strings(std::string_view key) const;
  std::optional<std::vector<int64_t>> integers(std::string_view key) const;
  std::optional<std::vector<float>> numbers(std::string_view key) const;  // f32, finite

  /// integer() that must be there.
  int64_t require_integer(std::string_view key, int64_t low, int64_t high) const;

 private:
  GgufFile() = default;
  void read();
  void read_metadata(uint64_t count);
  void read_tensors(uint64_t count);
  void check_layout();
  const GgufValue* find(std::string_view key) const;

  uint64_t take(int size, std::string_view what);
  std::string_view take_string(uint64_t limit, std::string_view what);
  GgufValue take_value(GgufKind kind, std::string_view what);

  std::string where_;
  std::shared_ptr<const MappedFile> mapping_;
  std::span<const std::byte> file_;
  uint64_t at_ = 0;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
};

/// Whether `text` is valid UTF-8 (no overlong forms, no surrogates).
bool is_utf8(std::string_view text);

}  // namespace bumblebee
