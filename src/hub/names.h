// What a name from outside may look like: repositories, revisions, paths of files, hashes. Nothing that fails here ever
// becomes part of a path or of a URL.
#pragma once

#include <string>
#include <string_view>

namespace bumblebee::hub {

/// "org/name": two words of letters, digits, '-', '_' and '.', without "--", "..", or '-' and '.' at an end.
bool is_repository_id(std::string_view text);

/// A branch, tag, commit or "refs/pr/N": a relative path of plain names, at most 512 bytes.
bool is_revision(std::string_view text);

/// A relative path of plain names. Empty when `path` may be a file of a repository, else what is wrong with it: an
/// absolute path, an empty, '.' or '..' part, a backslash, a control character, a drive letter, bytes that are not
/// UTF-8, a part of more than 255 bytes or more than 1024 bytes in all.
std::string path_defect(std::string_view path);

/// Lower-case hexadecimal digits: 40 (a commit, or git's SHA-1 of a file) and 64 (SHA-256).
bool is_sha1(std::string_view text);
bool is_sha256(std::string_view text);

/// ASCII letters in lower case: names that are equal then are one file on some file systems.
std::string fold_case(std::string_view text);

}  // namespace bumblebee::hub
