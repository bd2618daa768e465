// The library's remarks on standard error: notes for a person, or events for whoever operates the program.
#pragma once

#include <string>

namespace bumblebee::cli {

/// Shows remarks of `level` (error, warning, info, debug) and above from now on; "notes": warnings alone, each once, in
/// plain words; "off": none.
void show_log(const std::string& level);

}  // namespace bumblebee::cli
