// What keeps a user's files safe from an output: it may not be, hold or lie in an input, and replaces only files that
// were written by this program and are still as it left them. A manifest beside them says which those are.
#pragma once

#include <filesystem>
#include <set>
#include <span>
#include <string>

namespace bumblebee {

/// The manifest's name within the directory that it is about.
inline constexpr const char* kManifestName = ".bumblebee-files.json";

/// Throws Error(bad_request) where `output` is one of the inputs, holds it or lies in it, links followed. Of a
/// directory that is an input, the files that it links to count too. Empty inputs say nothing.
void require_apart(const std::filesystem::path& output, std::span<const std::filesystem::path> inputs);

/// Names of a manifest, as paths below its directory. Others than those, absent files and whatever is reached through a
/// link are in neither set.
struct WrittenFiles {
  std::set<std::string> ours;    // as they were written, by their contents; the manifest itself is among them
  std::set<std::string> edited;  // by somebody else, since
};

/// Both are empty without a manifest, or with one that cannot be read. Files above a gigabyte are compared at 256
/// places.
WrittenFiles written_files(const std::filesystem::path& directory);

/// Names all files of `names` (paths below `directory`) in its manifest, which is replaced. Throws Error(bad_file).
void write_manifest(const std::filesystem::path& directory, const std::set<std::string>& names);

/// Every file and link below `directory`, as paths relative to it.
std::set<std::string> files_below(const std::filesystem::path& directory);

}  // namespace bumblebee
