// Hashes over mapped files.
#include "train/hashing.h"

#include <algorithm>
#include <vector>

#include "base/hex.h"
#include "base/mapped_file.h"

namespace bumblebee::train {

namespace fs = std::filesystem;

std::string hex_digest(Blake2b& hash) {
  std::array<uint8_t, 32> digest;
  hash.finish(digest);
  return hex(digest);
}

std::string hash_file(const fs::path& path) {
  Blake2b hash(32);
  hash.update(MappedFile::open(path)->bytes());
  return hex_digest(hash);
}

std::string hash_weights(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  Blake2b hash(32);
  for (const fs::path& file : files) {
    const std::string name = file.filename().string() + '\0';
    hash.update(std::as_bytes(std::span(name)));
    hash.update(MappedFile::open(file)->bytes());
  }
  return hex_digest(hash);
}

}  // namespace bumblebee::train
