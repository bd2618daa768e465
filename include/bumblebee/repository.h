// Where models, tokenizers and configs come from: a directory, or a repository of the Hugging Face Hub.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace bumblebee {

/// A file that is being downloaded.
struct HubFileProgress {
  std::string path;
  uint64_t done = 0, total = 0;  // bytes, with those of an interrupted download before
};

struct HubProgress {
  uint64_t done = 0, total = 0;  // bytes of all files that were missing
  int files_done = 0, files_total = 0;
  std::vector<HubFileProgress> active;
};

/// Called while a repository downloads, on the thread that asked for it, about twenty times a second; return false to
/// cancel (the download throws Error(cancelled), and the next one goes on where it was).
using HubProgressCallback = std::function<bool(const HubProgress& progress)>;

/// automatic: the Hub is asked when files are missing in the cache, unless HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE
/// forbids it. offline: never.
enum class HubAccess : uint8_t { automatic, offline };

struct HubOptions {
  std::string revision = "main";    // branch, tag, commit, or "refs/pr/N"
  std::filesystem::path cache_dir;  // empty: HF_HUB_CACHE, else $HF_HOME/hub, else $XDG_CACHE_HOME/huggingface/hub,
                                    // else ~/.cache/huggingface/hub
  std::string subdir;               // a folder inside the repository
  HubAccess access = HubAccess::automatic;
  HubProgressCallback progress = {};
};

/// A place that holds files of a model. A value; nothing is read until something is loaded from it.
class Repository {
 public:
  /// The directory with the files. A Hub repository that is whole in the cache is used as it is, without asking the Hub
  /// (pull() in bumblebee/hub.h looks for a newer commit); otherwise what is missing is downloaded first. Throws
  /// Error(bad_file) when the directory does not exist, or when files are missing and the Hub may not be asked, and
  /// what pull() throws.
  std::filesystem::path directory() const;
  /// The same, or the file that was named: an adapter may be one of the snapshots of a training.
  std::filesystem::path place() const;
  /// The same as directory(), where tokenizer and configs are enough: of the Hub's repositories, weights are not
  /// fetched.
  std::filesystem::path text_directory() const;
  /// What the user wrote, for messages.
  const std::string& name() const { return name_; }

 private:
  friend Repository hf(std::string, HubOptions);
  friend Repository local(std::filesystem::path);
  std::filesystem::path place(bool weights) const;
  std::filesystem::path checked(const std::filesystem::path& place) const;
  std::string name_;
  bool hub_ = false;
  HubOptions options_;
};

/// A repository of the Hub, "org/name", in the local Hugging Face cache (the layout of huggingface_hub) or downloaded
/// to it when needed. Throws Error(bad_request) when the id is not of that form.
Repository hf(std::string id, HubOptions options = {});

/// A directory. `~` is expanded.
Repository local(std::filesystem::path directory);

/// What a command line means by SRC: what exists in the file system (a folder "models--org--name[/snapshots/COMMIT]" of
/// a cache of the Hub is the repository), what lies in a directory that exists, else "org/name[/folder][@revision]",
/// "hf://org/name..." or the address of its page. `options` gives the rest; a revision and a folder in SRC win over
/// its.
Repository repository(const std::string& source, HubOptions options = {});

}  // namespace bumblebee
