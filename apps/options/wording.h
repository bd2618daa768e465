// The library speaks of the fields of its structs; whoever sits at a terminal knows flags.
#pragma once

#include <string>

namespace bumblebee::cli {

class Parser;

/// `message` of the library with the verb's flags in place of the fields they set. A field whose flag was not given
/// keeps its name where its value came from a file of the model's, which is said.
std::string in_flags(const std::string& message, const Parser& verb);

}  // namespace bumblebee::cli
