// Writing an adapter in either format, so that its own project and read_adapter() compute what the original did. What a
// format has no place for is refused by name.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "lora/adapter.h"

namespace bumblebee::lora {

struct WriteOptions {
  int layers = 0;  // of the base; 0: not known. Needed for mlx-lm when the changed layers are not all, nor the last
  /// The base's modules, where they are known: mlx-lm gives factors to those that a layer has. Else every layer is
  /// taken to have what one of them has, and what is missing is written as zeros.
  std::set<std::string> modules = {};
  bool untied_head = false;  // the base's head has a weight of its own: only then do both formats mean the same by an
                             // adapted embedding
  /// Of a known base, what mlx-lm's names of its modules begin with (mlx_prefix()); else names stay as they are. mlx-lm
  /// does not load an adapter under other names, and its older releases went on without it in silence.
  std::optional<std::string> prefix = {};
  Kept<Json> config = {};  // an object: further keys of mlx-lm's config, which are not the writer's own
};

/// Writes the files of `to` into `directory`, which must exist, each one whole or not at all. Returns remarks, such as
/// values that had to be rounded. Throws Error(unsupported) for what the format cannot hold.
std::vector<std::string> write_adapter(const Adapter& adapter, Dialect to, const std::filesystem::path& directory,
                                       const WriteOptions& options = {});

}  // namespace bumblebee::lora
