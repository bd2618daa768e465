// The JSON header of a safetensors file, read as a stream of events: no tree is built, so a hostile header of 100 MB
// costs no more memory than the names in it. Internal to io.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"

namespace bumblebee {

/// Fills `tensors` (offsets relative to the data, not yet checked against the file) and `metadata`. Throws
/// Error(bad_file).
void parse_safetensors_header(std::string_view text, const std::string& where, std::vector<TensorEntry>& tensors,
                              Metadata& metadata);

}  // namespace bumblebee
