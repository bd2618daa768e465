// What the Hub names contents by, of an empty file: a git blob's SHA-1, and the SHA-256 of a file kept in LFS.
#pragma once

#include <string>

namespace bumblebee::hub {

inline const std::string kSha1 = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";
inline const std::string kSha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

}  // namespace bumblebee::hub
