// The library's remarks on standard error, for whoever operates the program; off unless asked for.
#pragma once

#include <string>

namespace bumblebee::cli {

/// Shows remarks of `level` (error, warning, info, debug) and above from now on; "off": none.
void show_log(const std::string& level);

}  // namespace bumblebee::cli
