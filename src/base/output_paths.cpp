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

constexpr uint64_t kHashed = uint64_t{1} << 20;
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

/// Nothing where the file is missing or no file.
Json description(const fs::path& path) {
  std::error_code failure;
  const uint64_t size = fs::file_size(path, failure);
  if (failure) return nullptr;
  Json told = {{"size", size}};
  if (size > 0 && size <= kHashed) {
    const std::string text = read_text_file(path, kHashed);
    Blake2b hash(32);
    hash.update(std::as_bytes(std::span(text)));
    uint8_t digest[32];
    hash.finish(digest);
    told["blake2b"] = hex(digest);
  }
  return told;
}

}  // namespace

void require_apart(const fs::path& output, std::span<const fs::path> inputs) {
  const fs::path to = resolved(output);
  for (const fs::path& input : inputs) {
    if (input.empty()) continue;
    const fs::path from = resolved(input);
    const char* relation = to == from        ? "the input itself"
                           : holds(to, from) ? "one that holds it"
                           : holds(from, to) ? "one inside it"
                                             : nullptr;
    if (relation == nullptr) continue;
    throw Error(ErrorCode::bad_request, output.string(),
                cat("output: expected a place apart from the input '", input.string(), "', got ", relation));
  }
}

std::set<std::string> written_files(const fs::path& directory) {
  std::set<std::string> names;
  const fs::path path = directory / kManifestName;
  std::error_code failure;
  if (!fs::is_regular_file(path, failure)) return names;
  try {
    const Json manifest = parse_json(read_text_file(path, kLargestManifest), path.string());
    for (const auto& [name, told] : manifest.at("files").items()) {
      if (!told.is_null() && description(directory / name) == told) names.insert(name);
    }
  } catch (const std::exception&) {
    return {};  // not ours, or broken: then nothing is known to be ours
  }
  names.insert(kManifestName);
  return names;
}

void write_manifest(const fs::path& directory, const std::set<std::string>& names) {
  Json files = Json::object();
  for (const std::string& name : names) {
    if (name != kManifestName) files[name] = description(directory / name);
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
