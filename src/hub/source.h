// What people write for a repository: its name, the address of its page, its folder in a cache. Names are checked here;
// whether anything is there is another question.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace bumblebee::hub {

struct Source {
  std::string id;
  std::string revision;         // empty: not said
  std::string subdir;           // empty: the whole repository
  std::filesystem::path cache;  // empty: not said
};

/// "org/name[/folder][@revision]", with "hf://" before it or not; nothing for what does not begin as an id.
std::optional<Source> parse_name(std::string_view text);

/// Whether this is an address ("https://...", "huggingface.co/..."), which no file is called.
bool is_address(std::string_view text);

/// The address of a model's page, of a folder there, or of a file that stands for its folder (config.json,
/// model.safetensors, an adapter's), at `endpoint`, which may have a path, or huggingface.co. Throws
/// Error(bad_request) for other files and places, and for data sets and spaces.
Source parse_address(std::string_view text, std::string_view endpoint);

/// "<cache>/models--org--name[/snapshots[/<commit>[/folder]]]", the folders of a cache of the Hub; without a commit,
/// the one of main or the only one. Nothing for other paths. Throws Error(bad_file) when no commit can be told.
std::optional<Source> parse_cache_folder(const std::filesystem::path& path);

}  // namespace bumblebee::hub
