// Identities of files and of what a model computes: BLAKE2b-256 in hexadecimal.
#pragma once

#include <filesystem>
#include <string>

#include "base/blake2b.h"

namespace bumblebee::train {

std::string hex_digest(Blake2b& hash);  // of a Blake2b(32); it is spent then
/// Throws Error(bad_file) when it cannot be read.
std::string hash_file(const std::filesystem::path& path);
/// Names and contents of all *.safetensors of a directory, in the order of their names.
std::string hash_weights(const std::filesystem::path& directory);

}  // namespace bumblebee::train
