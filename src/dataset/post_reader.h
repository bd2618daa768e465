// Texts out of files: lines, paragraphs, JSON, JSONL, a column of CSV. What is kept of them is prepare.h's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "bumblebee/prepare.h"

namespace bumblebee::dataset {

struct Post {
  std::string text;                    // UTF-8, without white space around it; may be empty
  int64_t line = 0;                    // where it begins; in JSON, which element; in a repository, which block
  bool reply = false, repost = false;  // of archives: an answer to somebody; somebody else's words
};

struct PostFile {
  PostFormat format = PostFormat::lines;  // never automatic
  std::vector<Post> posts;
  std::string note = {};  // for people: the format was guessed, and may be another
};

/// Throws Error(bad_file), naming file and line, for what is not UTF-8 or breaks its format, and for a column that is
/// not there.
PostFile read_posts(const std::filesystem::path& path, const PrepareOptions& options);
/// The same from memory.
PostFile parse_posts(std::string_view bytes, PostFormat format, std::string_view where, const PrepareOptions& options);
/// What `automatic` stands for. Throws Error(bad_file) for a .js that is not of Twitter's archive: a program, not
/// texts.
PostFormat format_of(const std::filesystem::path& path, std::string_view bytes, const PrepareOptions& options);

}  // namespace bumblebee::dataset
