// Manual pages, made from the parser itself.
#pragma once

#include <string>

namespace bumblebee::cli {

class Parser;

/// The page bumblebee(1), or bumblebee-VERB(1), in man's macros.
std::string manual_page(const Parser& app, const Parser* verb);

}  // namespace bumblebee::cli
