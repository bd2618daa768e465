// The version of the library, for programs that ask.
#pragma once

namespace bumblebee {

/// "0.1.0": semantic versioning of everything in include/bumblebee.
const char* version();

/// The commit that the library was built from, shortened; empty when unknown.
const char* commit();

}  // namespace bumblebee
