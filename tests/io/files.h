// Files for the tests of io: a directory that goes away, raw safetensors and GGUF bytes built field by field (so that
// they can be wrong in any field), and a check that an action throws a named error.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"

namespace bumblebee::test {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    static std::atomic<int> counter{0};
    path_ = std::filesystem::temp_directory_path() / cat("bumblebee-io-", ::getpid(), "-", counter++);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << bytes;
  file.close();
  ASSERT_TRUE(file.good()) << path;
}

inline std::string read_bytes(const std::filesystem::path& path) { return read_text_file(path, size_t{1} << 30); }

inline std::span<const std::byte> as_bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

/// `value` little-endian.
template <class T>
std::string packed(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

/// A safetensors file with any header and data.
inline std::string safetensors(const std::string& header, const std::string& data) {
  return packed(uint64_t(header.size())) + header + data;
}

/// "name":{...} of a header.
inline std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, uint64_t begin,
                         uint64_t end) {
  return cat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":[", begin, ",", end,
             "]}");
}

/// A GGUF file, field by field.
struct GgufBuilder {
  std::string metadata, infos, data;
  uint64_t entries = 0, tensors = 0;
  uint32_t version = 3;
  uint64_t alignment = 32;

  static std::string text(const std::string& value) { return packed(uint64_t(value.size())) + value; }
  void raw(const std::string& key, uint32_t kind, const std::string& value) {
    metadata += text(key) + packed(kind) + value;
    ++entries;
  }
  void u32(const std::string& key, uint32_t value) { raw(key, 4, packed(value)); }
  void f32(const std::string& key, float value) { raw(key, 6, packed(value)); }
  void boolean(const std::string& key, bool value) { raw(key, 7, packed(uint8_t(value))); }
  void string(const std::string& key, const std::string& value) { raw(key, 8, text(value)); }
  void strings(const std::string& key, const std::vector<std::string>& values) {
    std::string body = packed(uint32_t{8}) + packed(uint64_t(values.size()));
    for (const std::string& value : values) body += text(value);
    raw(key, 9, body);
  }
  void i32s(const std::string& key, const std::vector<int32_t>& values) {
    std::string body = packed(uint32_t{5}) + packed(uint64_t(values.size()));
    for (const int32_t value : values) body += packed(value);
    raw(key, 9, body);
  }
  void info(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
    infos += text(name) + packed(uint32_t(dims.size()));
    for (const uint64_t dim : dims) infos += packed(dim);
    infos += packed(type) + packed(offset);
    ++tensors;
  }
  /// `dims` in the file's order: fastest first.
  void tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type, const std::string& bytes) {
    info(name, dims, type, data.size());
    data += bytes;
    data.resize((data.size() + alignment - 1) / alignment * alignment);
  }
  std::string bytes() const {
    std::string file = "GGUF" + packed(version) + packed(tensors) + packed(entries) + metadata + infos;
    file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data;
  }
};

/// Runs `action`, which must throw an Error whose message holds `part`.
inline void expect_error(const std::function<void()>& action, const std::string& part, const std::string& what) {
  try {
    action();
    ADD_FAILURE() << what << ": nothing was thrown; expected an error with: " << part;
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos)
        << what << ": got: " << e.what() << "\nexpected it to hold: " << part;
  } catch (const std::exception& e) {
    ADD_FAILURE() << what << ": another exception: " << e.what();
  }
}

/// Bytes of memory this process has to itself (not the pages of mapped files).
inline size_t private_bytes() {
  std::ifstream file("/proc/self/statm");
  size_t total = 0, resident = 0, shared = 0;
  file >> total >> resident >> shared;
  return (resident - shared) * size_t(::sysconf(_SC_PAGESIZE));
}

}  // namespace bumblebee::test
