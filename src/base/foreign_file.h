// Recognises what lies under a file's name in place of the file: what git or a browser leaves there.
#pragma once

#include <string>
#include <string_view>

namespace bumblebee {

/// "a Git LFS pointer, not the file (4.27 GB): ..." or "an HTML page, not the file: ..." or "the Hub's answer '...'",
/// with what to do; empty for anything else. Looks at the first bytes only.
std::string foreign_content(std::string_view text);

}  // namespace bumblebee
