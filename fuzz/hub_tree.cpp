// Any bytes as a list of files of the Hub, as one kept in the cache, and as a pattern over names: refused with an
// Error, or paths that stay below a folder and a list that survives being kept.
#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "hub/names.h"
#include "hub/select.h"
#include "hub/tree.h"

namespace {

using namespace bumblebee;

void use(const hub::Tree& tree) {
  std::vector<std::string> paths;
  for (const auto& [path, file] : tree) {
    if (!hub::is_sha1(file.etag()) && !hub::is_sha256(file.etag())) std::abort();
    paths.push_back(path);
  }
  hub::select(tree, {});
  const auto again = hub::tree_from_text(hub::tree_to_text(tree), "fuzz");
  if (!again || again->size() != tree.size()) std::abort();
  hub::check_paths(paths, "fuzz");
  for (const std::string& path : paths)
    if (!hub::path_defect(path).empty()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t line = text.find('\n');
  if (line != std::string_view::npos) hub::matches(text.substr(0, line), text.substr(line + 1));
  try {
    if (const auto kept = hub::tree_from_text(text, "fuzz")) use(*kept);
  } catch (const Error&) {
    // names that may be listed, but not fetched
  }
  try {
    hub::Tree tree;
    hub::add_tree_page(tree, parse_json(text, "fuzz"), "fuzz");
    use(tree);
  } catch (const Error&) {
    // the right answer to a list that is none
  }
  return 0;
}
