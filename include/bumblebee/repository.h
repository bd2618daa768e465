// Where models, tokenizers and configs come from: a directory, or a repository of the Hugging Face Hub.
#pragma once

#include <filesystem>
#include <string>

namespace bumblebee {

struct HubOptions {
  std::string revision = "main";    // branch, tag or commit
  std::filesystem::path cache_dir;  // empty: HF_HUB_CACHE, else $HF_HOME/hub, else $XDG_CACHE_HOME/huggingface/hub,
                                    // else ~/.cache/huggingface/hub
  std::string subdir;               // a folder inside the repository
};

/// A place that holds files of a model. A value; nothing is read until something is loaded from it.
class Repository {
 public:
  /// The directory with the files. Throws Error(bad_file) when it does not exist, or when a Hub repository is not in
  /// the cache.
  std::filesystem::path directory() const;
  /// What the user wrote, for messages.
  const std::string& name() const { return name_; }

 private:
  friend Repository hf(std::string, HubOptions);
  friend Repository local(std::filesystem::path);
  std::string name_;
  bool hub_ = false;
  HubOptions options_;
};

/// A repository of the Hub, "org/name", read from the local Hugging Face cache (the layout of huggingface_hub). Throws
/// Error(bad_request) when the id is not of that form.
Repository hf(std::string id, HubOptions options = {});

/// A directory. `~` is expanded.
Repository local(std::filesystem::path directory);

/// What a command line means by SRC: an existing directory, else "org/name" or "org/name@revision".
Repository repository(const std::string& source);

}  // namespace bumblebee
