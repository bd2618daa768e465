// Paths are compared as the system resolves them; the manifest is JSON: {"files": {"config.json": {"size": 12,
// "blake2b": "…"}}}.
#include "base/output_paths.h"

#include <nlohmann/json.hpp>

#include <algorithm>

#include "base/atomic_file.h"
#include "base/blake2b.h"
#include "base/error.h"
#include "base/hex.h"
#include "base/json.h"
#include "base/mapped_file.h"

namespace bumblebee {

namespace fs = std::filesystem;

namespace {

constexpr size_t kLargestManifest = size_t{16} << 20;

/// Without "." and "..", and with links followed as far as the path exists.
fs::path resolved(const fs::path& path) {
  std::error_code failure;
  fs::path whole = fs::weakly_canonical(fs::absolute(path, failure), failure);
  if (failure) whole = fs::absolute(path, failure).lexically_normal();
  return whole.has_filename() ? whole : whole.parent_path();
}

bool holds(const fs::path& outer, const fs::path& inner) {
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

/// Whether `name` names something below `directory` without a way out of it: neither "..", nor a link to elsewhere.
bool inside(const fs::path& directory, const fs::path& name) {
  if (name.empty() || name.is_absolute() || name.lexically_normal() != name || *name.begin() == "..") return false;
  fs::path at = directory;
  std::error_code failure;
  for (const fs::path& part : name) {
    at /= part;
    if (fs::is_symlink(fs::symlink_status(at, failure))) return false;
  }
  return true;
}

std::string digest_of(const fs::path& path, uint64_t size) {
  constexpr uint64_t kWhole = uint64_t{1} << 30, kPart = uint64_t{1} << 20;
  Blake2b hash(32);
  if (size > 0) {
    const auto file = MappedFile::open(path);
    const std::span<const std::byte> bytes = file->bytes();
    const uint64_t step = size <= kWhole ? kPart : std::max(kPart, size / 256);
    for (uint64_t at = 0; at < bytes.size(); at += step)
      hash.update(bytes.subspan(size_t(at), size_t(std::min<uint64_t>(kPart, bytes.size() - at))));
    if (size > kWhole) hash.update(bytes.last(size_t(kPart)));
  }
  uint8_t digest[32];
  hash.finish(digest);
  return hex(digest);
}

/// Null where there is no such file.
Json description(const fs::path& path) {
  std::error_code failure;
  const uint64_t size = fs::file_size(path, failure);
  if (failure) return nullptr;
  return {{"size", size}, {"blake2b", digest_of(path, size)}};
}

void check_apart(const fs::path& output, const fs::path& to, const fs::path& input, const fs::path& from) {
  const char* relation = to == from        ? "the input itself"
                         : holds(to, from) ? "one that holds it"
                         : holds(from, to) ? "one inside it"
                                           : nullptr;
  if (relation == nullptr) return;
  throw Error(ErrorCode::bad_request, output.string(),
              cat("output: expected a place apart from the input '", input.string(), "', got ", relation));
}

}  // namespace

void require_apart(const fs::path& output, std::span<const fs::path> inputs) {
  const fs::path to = resolved(output);
  for (const fs::path& input : inputs) {
    if (input.empty()) continue;
    check_apart(output, to, input, resolved(input));
    std::error_code failure;
    for (fs::directory_iterator it(input, failure), last; !failure && it != last; it.increment(failure)) {
      if (it->is_symlink(failure)) check_apart(output, to, it->path(), resolved(it->path()));
    }
  }
}

WrittenFiles written_files(const fs::path& directory) {
  WrittenFiles written;
  const fs::path path = directory / kManifestName;
  std::error_code failure;
  if (!fs::is_regular_file(fs::symlink_status(path, failure))) return written;
  try {
    const Json manifest = parse_json(read_text_file(path, kLargestManifest), path.string());
    for (const auto& [name, told] : manifest.at("files").items()) {
      if (!inside(directory, name)) continue;
      const Json now = description(directory / name);
      if (!now.is_null()) (now == told ? written.ours : written.edited).insert(name);
    }
  } catch (const std::exception&) {
    return {};  // not ours, or broken: then nothing is known to be ours
  }
  written.ours.insert(kManifestName);
  return written;
}

void write_manifest(const fs::path& directory, const std::set<std::string>& names) {
  Json files = Json::object();
  for (const std::string& name : names) {
    if (name == kManifestName) continue;
    if (Json told = description(directory / name); !told.is_null()) files[name] = std::move(told);
  }
  write_text_file(directory / kManifestName, Json{{"files", files}}.dump(1) + "\n");
}

std::set<std::string> files_below(const fs::path& directory) {
  std::set<std::string> names;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory)) {
    if (!entry.is_directory() || entry.is_symlink()) names.insert(entry.path().lexically_relative(directory).string());
  }
  return names;
}

}  // namespace bumblebee
