// Files of the cache: folders, small files that appear whole, and failures of the system in words.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace bumblebee::hub {

/// Throws Error(bad_file) for the current errno: "cannot <action>: <why>", with what to do about a full disk and a
/// cache that may not be written.
[[noreturn]] void fail_system(const std::filesystem::path& path, std::string_view action);

/// Throws Error(bad_file).
void make_directories(const std::filesystem::path& path);

/// Writes `path` under another name, syncs it and renames. Throws Error(bad_file).
void write_whole(const std::filesystem::path& path, std::string_view text);

/// Makes renames in a directory last. Fails silently: some file systems cannot.
void sync_directory(const std::filesystem::path& path);

/// Eight hexadecimal digits that no other process or thread uses now.
std::string unique_suffix();

/// What an unprivileged process may still write where `path` is or will be; UINT64_MAX when the system does not tell.
uint64_t free_bytes(const std::filesystem::path& path);

/// The size of a regular file, links followed; -1: none.
int64_t size_of(const std::filesystem::path& path);

}  // namespace bumblebee::hub
