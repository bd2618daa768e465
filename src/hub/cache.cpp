// Paths of huggingface_hub's cache, and the few writes that must be atomic.
#include "hub/cache.h"

#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <set>

#include "base/error.h"
#include "base/format.h"
#include "base/mapped_file.h"
#include "hub/files.h"
#include "hub/names.h"

namespace fs = std::filesystem;

namespace bumblebee::hub {
namespace {

constexpr size_t kTreeBytes = size_t{64} << 20;

constexpr std::string_view kTag =
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This file is a cache directory tag created by huggingface_hub.\n"
    "# For information about cache directory tags, see:\n"
    "#\thttps://bford.info/cachedir/\n";

/// A link under a fresh name, then renamed: the old entry is replaced in one step.
bool replace_by_link(const fs::path& target, const fs::path& pointer) {
  fs::path temporary = pointer;
  temporary += cat(".", unique_suffix(), ".tmp");
  if (::symlink(target.c_str(), temporary.c_str()) != 0) return false;
  if (::rename(temporary.c_str(), pointer.c_str()) == 0) return true;
  const int reason = errno;
  ::unlink(temporary.c_str());
  errno = reason;
  return false;
}

bool make_link(const fs::path& target, const fs::path& pointer) {
  if (::symlink(target.c_str(), pointer.c_str()) == 0) return true;
  return errno == EEXIST && replace_by_link(target, pointer);
}

bool without_links(int error) {
  return error == EPERM || error == ENOSYS || error == EOPNOTSUPP || error == ENOTSUP || error == EINVAL;
}

void copy_whole(const fs::path& from, const fs::path& to, const fs::path& beside) {
  const fs::path temporary = beside / cat(to.filename().string().substr(0, 100), ".", unique_suffix(), ".incomplete");
  std::error_code failure;
  fs::copy_file(from, temporary, fs::copy_options::overwrite_existing, failure);
  if (!failure) {
    const int fd = ::open(temporary.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
      (void)!::fsync(fd);
      ::close(fd);
    }
    fs::rename(temporary, to, failure);
  }
  if (!failure) return;
  std::error_code ignored;
  fs::remove(temporary, ignored);
  errno = failure.value();
  fail_system(to, "write");
}

bool is_file(const fs::path& path) { return size_of(path) >= 0; }

/// Shards that an index in `directory` names and the directory lacks. An index of which no shard is there, beside
/// model.safetensors, is another packaging's: loading leaves it alone, and so does this.
std::vector<std::string> missing_shards(const fs::path& directory, const std::set<std::string>& names) {
  std::set<std::string> missing;
  const fs::path index = directory / "model.safetensors.index.json";
  if (!is_file(index)) return {};
  const Json root = parse_json(read_text_file(index, kTreeBytes), index.string());
  const auto map = root.is_object() ? root.find("weight_map") : root.end();
  if (map == root.end() || !map->is_object()) return {};  // whoever loads it says what is wrong
  bool any = false;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string() || !path_defect(shard.get<std::string>()).empty()) continue;
    if (is_file(directory / shard.get<std::string>())) {
      any = true;
    } else {
      missing.insert(shard.get<std::string>());
    }
  }
  if (!any && names.contains("model.safetensors")) return {};
  return {missing.begin(), missing.end()};
}

/// The others of "model-00001-of-00003.safetensors" that `names` lacks.
std::vector<std::string> missing_siblings(const std::set<std::string>& names) {
  std::vector<std::string> missing;
  constexpr std::string_view kHead = "model-", kOf = "-of-", kEnd = ".safetensors";
  const auto is_number = [](std::string_view text) {
    return text.size() == 5 && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  };
  for (const std::string& name : names) {
    const std::string_view view = name;
    if (view.size() != kHead.size() + 5 + kOf.size() + 5 + kEnd.size() || !view.starts_with(kHead) ||
        !view.ends_with(kEnd) || view.substr(11, 4) != kOf || !is_number(view.substr(6, 5)) ||
        !is_number(view.substr(15, 5)))
      continue;
    const int count = std::stoi(name.substr(15, 5));
    for (int i = 1; i <= count; ++i) {
      const std::string sibling = cat(kHead, format("{:05}", i), view.substr(11));
      if (!names.contains(sibling)) missing.push_back(sibling);
    }
    return missing;  // one set of shards
  }
  return missing;
}

struct Without {
  std::vector<std::string> certain, likely;
};

/// What a snapshot without a list lacks: any tool may have made it by fetching single files. `likely`: a repository
/// may be whole without it, and loading says what it needs.
Without missing_without_list(const fs::path& directory, bool weights) {
  std::error_code failure;
  std::set<std::string> names;
  Without missing;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, failure)) {
    const std::string name = entry.path().filename().string();
    if (fs::exists(entry.path(), failure)) {
      names.insert(name);
    } else if (weights || !is_weights(name)) {
      missing.certain.push_back(name);  // a link to a blob that is gone
    }
  }
  if (names.empty() && missing.certain.empty()) missing.certain.emplace_back("(every file)");
  if (!names.empty() && weights) {
    // Weights of other kinds are refused by name when they are loaded: nothing that the Hub has would help.
    const bool any = std::any_of(names.begin(), names.end(), [](const std::string& name) {
      return (is_weights(name) && needed(name)) || name.ends_with(".gguf") || name.ends_with(".bin") ||
             name.ends_with(".pt") || name.ends_with(".pth") || name.ends_with(".npz");
    });
    std::vector<std::string> shards = missing_shards(directory, names);
    if (shards.empty()) shards = missing_siblings(names);
    if (!any && shards.empty()) missing.certain.emplace_back("the weights (*.safetensors)");
    std::move(shards.begin(), shards.end(), std::back_inserter(missing.certain));
  }
  const bool adapter = names.contains("adapters.safetensors") || names.contains("adapter_model.safetensors");
  if (adapter && !names.contains("adapter_config.json")) missing.likely.emplace_back("adapter_config.json");
  const bool model = !adapter && !names.contains("adapter_config.json");
  if (model && !names.empty()) {
    for (const char* name : {"config.json", "tokenizer.json"}) {
      if (!names.contains(name)) missing.likely.emplace_back(name);
    }
  }
  return missing;
}

}  // namespace

std::string folder_name(const std::string& id) {
  std::string name = "models--" + id;
  name.replace(name.find('/'), 1, "--");
  return name;
}

RepositoryCache::RepositoryCache(fs::path cache, const std::string& id)
    : cache_(std::move(cache)), folder_(cache_ / folder_name(id)) {}

fs::path RepositoryCache::lock(const std::string& etag) const {
  return cache_ / ".locks" / folder_.filename() / (etag + ".lock");
}

std::string RepositoryCache::resolve(const std::string& revision) const {
  if (is_sha1(revision)) return revision;
  const fs::path ref = folder_ / "refs" / revision;
  if (size_of(ref) < 0) return "";
  std::string commit = read_text_file(ref, 4096);
  while (!commit.empty() && (commit.back() == '\n' || commit.back() == '\r' || commit.back() == ' ')) commit.pop_back();
  if (!is_sha1(commit))
    throw Error(ErrorCode::bad_file, ref.string(), "expected a commit hash of 40 hexadecimal digits");
  return commit;
}

void RepositoryCache::write_ref(const std::string& revision, const std::string& commit) const {
  if (revision == commit) return;
  const fs::path ref = folder_ / "refs" / revision;
  if (size_of(ref) == int64_t(commit.size()) && read_text_file(ref, 4096) == commit) return;
  make_directories(ref.parent_path());
  write_whole(ref, commit);
  sync_directory(ref.parent_path());
}

std::optional<Tree> RepositoryCache::read_tree(const std::string& commit) const try {
  const fs::path file = folder_ / "trees" / (commit + ".json");
  if (size_of(file) < 0) return {};
  return tree_from_text(read_text_file(file, kTreeBytes), file.string());
} catch (const Error&) {
  return {};
}

void RepositoryCache::write_tree(const std::string& commit, const Tree& tree) const try {
  const fs::path file = folder_ / "trees" / (commit + ".json");
  make_directories(file.parent_path());
  write_whole(file, tree_to_text(tree));
} catch (const Error&) {
}

bool RepositoryCache::has_file(const std::string& commit, const std::string& path, const TreeFile& file) const {
  return size_of(snapshot(commit) / path) == int64_t(file.bytes());
}

bool RepositoryCache::has_blob(const TreeFile& file) const {
  return size_of(blob(file.etag())) == int64_t(file.bytes());
}

void RepositoryCache::link(const std::string& commit, const std::string& path, const std::string& etag, bool symlinks,
                           Blob blob_is) const {
  const fs::path pointer = snapshot(commit) / path;
  make_directories(pointer.parent_path());
  if (symlinks) {
    std::string up = "../../";
    for (const char c : path) up += c == '/' ? "../" : "";
    if (make_link(cat(up, "blobs/", etag), pointer)) return;
    if (!without_links(errno)) fail_system(pointer, "link");
  }
  if (blob_is == Blob::shared) return copy_whole(blob(etag), pointer, folder_ / "blobs");
  if (::rename(blob(etag).c_str(), pointer.c_str()) != 0) fail_system(pointer, "rename");
}

void RepositoryCache::write_absent(const std::string& commit, const std::string& path) const try {
  const fs::path file = folder_ / ".no_exist" / commit / path;
  if (size_of(file) >= 0) return;
  make_directories(file.parent_path());
  write_whole(file, "");
} catch (const Error&) {
}

bool RepositoryCache::is_absent(const std::string& commit, const std::string& path) const {
  return is_file(folder_ / ".no_exist" / commit / path);
}

void RepositoryCache::create() const {
  make_directories(folder_ / "blobs");
  std::error_code ignored;
  const fs::path tag = cache_ / "CACHEDIR.TAG";
  if (fs::exists(tag, ignored)) return;
  try {
    write_whole(tag, kTag);
  } catch (const Error&) {  // what cannot be written is found out when a file is
  }
}

std::vector<std::string> missing_files(const RepositoryCache& cache, const std::string& commit,
                                       const Selection& selection, Doubt doubt) {
  const std::optional<Tree> tree = cache.read_tree(commit);
  if (!tree) {
    Without without = missing_without_list(cache.snapshot(commit) / selection.subdir, selection.weights);
    if (doubt == Doubt::counts) {
      for (std::string& name : without.likely) {
        const std::string path = selection.subdir.empty() ? name : cat(selection.subdir, "/", name);
        if (!cache.is_absent(commit, path)) without.certain.push_back(std::move(name));
      }
    }
    return std::move(without.certain);
  }
  std::vector<std::string> missing;
  const std::vector<std::string> chosen = select(*tree, selection);
  if (chosen.empty()) missing.emplace_back("(every file that is wanted)");
  for (const std::string& path : chosen) {
    if (!path_defect(path).empty() || !cache.has_file(commit, path, tree->find(path)->second)) missing.push_back(path);
  }
  return missing;
}

}  // namespace bumblebee::hub
