// The safetensors encoding: a memory-mapped reader that trusts nothing, and a streaming writer whose file appears whole
// or not at all. Knows names, types and bytes; what the tensors mean is for checkpoint.h.
//
// Rules, as the format's own Rust crate enforces them: 8 bytes little-endian N, N at most 100,000,000 and inside the
// file; N bytes of JSON that begin with '{' (spaces may follow it); no key twice; dtype times shape equals the bytes;
// tensors lie end to end from the first data byte to the last, without hole or overlap. `__metadata__` is an object of
// strings, null (MLX) or absent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "tensor/dtype.h"

namespace bumblebee {

/// "F32", "BF16", "BOOL", ...: the names of the format.
std::string_view safetensors_name(DType dtype);

/// "[2, 3]", for messages.
std::string shape_text(std::span<const uint64_t> shape);

struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  std::vector<uint64_t> shape;

  /// Bytes of the data; the shape was checked or comes from us.
  uint64_t size_bytes() const;
};

/// One tensor of a file. Offsets count from the first byte of the file; no alignment is promised.
struct TensorEntry : TensorSpec {
  uint64_t begin = 0, end = 0;
};

using Metadata = std::map<std::string, std::string>;

/// An open file: its header is parsed and checked, its data are mapped and untouched. Immutable, so safe to share.
class SafetensorsFile {
 public:
  /// Throws Error(bad_file) naming the file, and the tensor when one is to blame.
  static std::shared_ptr<const SafetensorsFile> open(const std::filesystem::path& path);

  /// The same over bytes in memory, which must outlive the result; `where` is the name for messages.
  static std::shared_ptr<const SafetensorsFile> parse(std::span<const std::byte> bytes, std::string where);

  /// In the order of their data.
  const std::vector<TensorEntry>& tensors() const { return tensors_; }
  /// Null when there is no tensor of that name.
  const TensorEntry* find(std::string_view name) const;
  std::span<const std::byte> bytes(const TensorEntry& tensor) const {
    return file_.subspan(size_t(tensor.begin), size_t(tensor.end - tensor.begin));
  }
  const Metadata& metadata() const { return metadata_; }
  const std::string& where() const { return where_; }
  uint64_t file_bytes() const { return file_.size(); }

 private:
  SafetensorsFile() = default;
  void read_header();
  void check_layout(uint64_t data_begin);

  std::string where_;
  std::shared_ptr<const MappedFile> mapping_;
  std::span<const std::byte> file_;
  std::vector<TensorEntry> tensors_;
  std::unordered_map<std::string_view, size_t> index_;
  Metadata metadata_;
};

/// Writes tensors one after the other in the order of `tensors`, holding none of them. The header is known from the
/// start and padded with spaces to a multiple of 8, so that the data begin aligned. Nothing appears before finish().
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorSpec> tensors, const Metadata& metadata = {});

  /// Appends bytes of the current tensor; they may come in pieces, but a piece never crosses into the next tensor.
  void append(std::span<const std::byte> bytes);

  /// The tensor that append() is filling; null when all are full.
  const TensorSpec* current() const { return next_ < tensors_.size() ? &tensors_[next_] : nullptr; }

  void finish();

 private:
  void skip_full();

  AtomicFile file_;
  std::vector<TensorSpec> tensors_;
  size_t next_ = 0;
  uint64_t written_ = 0;  // bytes of the current tensor
};

/// A tensor in memory.
struct TensorView {
  TensorSpec spec;
  std::span<const std::byte> bytes;
};

/// Writes a small file in one call.
void write_safetensors(const std::filesystem::path& path, const std::vector<TensorView>& tensors,
                       const Metadata& metadata = {});

}  // namespace bumblebee
