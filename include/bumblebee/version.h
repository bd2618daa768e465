// The version of the library, for programs that ask.
#pragma once

namespace bumblebee {

/// "0.1.0": semantic versioning of everything in include/bumblebee.
const char* version();

}  // namespace bumblebee
