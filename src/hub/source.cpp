// Text first, then, for folders of a cache, the few names that decide which snapshot is meant.
#include "hub/source.h"

#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"
#include "hub/cache.h"
#include "hub/names.h"

namespace fs = std::filesystem;

namespace bumblebee::hub {
namespace {

constexpr std::string_view kFolder = "models--";

bool take(std::string_view& text, std::string_view start) {
  if (!text.starts_with(start)) return false;
  text.remove_prefix(start.size());
  return true;
}

/// "%2F" is '/'; what is no such code stays.
std::string decoded(std::string_view text) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
  };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const int high = text[i] == '%' && i + 2 < text.size() ? digit(text[i + 1]) : -1;
    const int low = high >= 0 ? digit(text[i + 2]) : -1;
    out += low >= 0 ? char(high * 16 + low) : text[i];
    if (low >= 0) i += 2;
  }
  return out;
}

std::vector<std::string> split(std::string_view path) {
  std::vector<std::string> parts;
  while (!path.empty()) {
    const size_t end = std::min(path.find('/'), path.size());
    if (end > 0) parts.push_back(decoded(path.substr(0, end)));
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return parts;
}

std::string joined(const std::vector<std::string>& parts, size_t from, size_t to) {
  std::string path;
  for (size_t i = from; i < to; ++i) path += (path.empty() ? "" : "/") + parts[i];
  return path;
}

/// "models--org--name" as "org/name"; empty for other names, and for the few repositories that have no owner.
std::string id_of(std::string_view folder) {
  if (!take(folder, kFolder)) return "";
  const size_t dashes = folder.find("--");
  if (dashes == std::string_view::npos) return "";
  std::string id = cat(folder.substr(0, dashes), "/", folder.substr(dashes + 2));
  return is_repository_id(id) ? id : std::string();
}

/// An address in two: the host as it is compared, and what comes after it.
struct Place {
  std::string host;       // in lower case, without the port that https has anyway
  std::string_view path;  // empty, or from its '/' on
};

Place place_of(std::string_view address) {
  for (const std::string_view scheme : {"https://", "http://"}) {
    if (fold_case(address.substr(0, scheme.size())) == scheme) address.remove_prefix(scheme.size());
  }
  const size_t end = std::min(address.find('/'), address.size());
  Place place{fold_case(address.substr(0, end)), address.substr(end)};
  constexpr std::string_view kPort = ":443";
  if (place.host.ends_with(kPort)) place.host.resize(place.host.size() - kPort.size());
  return place;
}

/// Whether a file's address is a way of naming its folder: every model or adapter has one of these, and only one.
bool stands_for_its_folder(std::string_view file) {
  constexpr std::array<std::string_view, 6> kFiles = {"config.json",          "model.safetensors",
                                                      "adapter_config.json",  "model.safetensors.index.json",
                                                      "adapters.safetensors", "adapter_model.safetensors"};
  return std::find(kFiles.begin(), kFiles.end(), file) != kFiles.end();
}

bool folder_exists(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

/// The commit that a cache's repository stands for when nobody says which.
std::string commit_of(const fs::path& cache, const std::string& id) {
  const RepositoryCache repository(cache, id);
  if (const std::string commit = repository.resolve("main"); !commit.empty()) return commit;
  std::vector<std::string> commits;
  std::error_code failure;
  for (const fs::directory_entry& entry : fs::directory_iterator(repository.folder() / "snapshots", failure))
    commits.push_back(entry.path().filename().string());
  if (commits.size() == 1) return commits.front();
  std::sort(commits.begin(), commits.end());
  std::string names;
  for (const std::string& commit : commits) names += " " + commit;
  throw Error(ErrorCode::bad_file, repository.folder().string(),
              commits.empty() ? cat("no snapshot in this folder of the cache; ", id, " names the repository")
                              : cat("expected one snapshot, or one for main, got", names, ": name one of snapshots/"));
}

}  // namespace

std::optional<Source> parse_name(std::string_view text) {
  take(text, "hf://");
  Source source;
  const size_t at = text.find('@');
  std::string_view path = text.substr(0, at);
  while (path.ends_with('/')) path.remove_suffix(1);
  const size_t slash = path.find('/');
  const size_t second = slash == std::string_view::npos ? slash : path.find('/', slash + 1);
  source.id = path.substr(0, second);
  if (!is_repository_id(source.id) || text.ends_with('@')) return {};
  if (second != std::string_view::npos) source.subdir = path.substr(second + 1);
  if (at != std::string_view::npos) source.revision = text.substr(at + 1);
  return source;
}

bool is_address(std::string_view text) {
  constexpr std::array<std::string_view, 5> kStarts = {"https://", "http://", "huggingface.co/", "hf.co/",
                                                       "www.huggingface.co/"};
  return std::any_of(kStarts.begin(), kStarts.end(),
                     [&](std::string_view start) { return fold_case(text.substr(0, start.size())) == start; });
}

Source parse_address(std::string_view text, std::string_view endpoint) {
  const auto refuse = [&](std::string_view what) {
    throw Error(ErrorCode::bad_request, text.substr(0, 200),
                cat(what, ": expected the page of a model, such as ", endpoint, "/org/name"));
  };
  while (endpoint.ends_with('/')) endpoint.remove_suffix(1);
  Place place = place_of(text.substr(0, text.find_first_of("?#")));
  const Place mirror = place_of(endpoint);
  std::string_view below = place.path;
  if (place.host == mirror.host && take(below, mirror.path) && (below.empty() || below.starts_with('/'))) {
    place.path = below;
  } else if (place.host != "huggingface.co" && place.host != "www.huggingface.co" && place.host != "hf.co") {
    refuse("another site than the Hub's");
  }
  std::vector<std::string> parts = split(place.path);
  if (!parts.empty() && parts[0] == "models") parts.erase(parts.begin());
  if (!parts.empty() && (parts[0] == "datasets" || parts[0] == "spaces")) refuse(cat("one of the Hub's ", parts[0]));
  if (parts.size() >= 2 && parts[1].ends_with(".git")) parts[1].resize(parts[1].size() - 4);
  const std::string view = parts.size() > 2 ? parts[2] : "";
  const bool file = view == "blob" || view == "resolve" || view == "raw";
  std::optional<Source> source;
  if (file || view == "tree" || view == "commit") {
    source = parse_name(joined(parts, 0, 2));
    if (source && parts.size() > 3) source->revision = parts[3];
    if (source && file && parts.size() > 4 && !stands_for_its_folder(parts.back())) {
      const std::string revision = parts[3] == "main" ? "" : "@" + parts[3];
      throw Error(ErrorCode::bad_request, text.substr(0, 200),
                  cat("the address of one file: expected a model's page or one of its folders; `bumblebee pull ",
                      source->id, revision, " --include '", joined(parts, 4, parts.size()), "'` fetches a file alone"));
    }
    if (source && view != "commit")
      source->subdir = joined(parts, 4, std::max<size_t>(4, parts.size() - (file ? 1 : 0)));
  } else if (view == "discussions" || view == "commits") {
    source = parse_name(joined(parts, 0, 2));
  } else {
    source = parse_name(joined(parts, 0, parts.size()));
  }
  if (!source) refuse("no page of a model");
  return *source;
}

std::optional<Source> parse_cache_folder(const fs::path& path) {
  const fs::path whole = fs::absolute(path).lexically_normal();
  fs::path cache;
  for (auto part = whole.begin(); part != whole.end(); cache /= *part++) {
    Source source;
    source.id = id_of(part->string());
    if (source.id.empty() || !folder_exists(cache / *part / "snapshots")) continue;
    source.cache = cache;
    std::vector<std::string> below;
    for (++part; part != whole.end(); ++part) {
      if (!part->empty()) below.push_back(part->string());
    }
    if (!below.empty() && below[0] != "snapshots") return {};
    if (below.size() < 2) {
      source.revision = commit_of(cache, source.id);
      return source;
    }
    if (!is_sha1(below[1])) return {};
    source.revision = below[1];
    source.subdir = joined(below, 2, below.size());
    return source;
  }
  return {};
}

}  // namespace bumblebee::hub
