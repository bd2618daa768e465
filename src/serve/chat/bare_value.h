// Values that models write without quotes, where a form does not say whether they are text.
#pragma once

#include <string>
#include <string_view>

namespace bumblebee::serve {

/// `text` as JSON: itself where it is a value, Python's True, False and None as JSON's, anything else as a string.
std::string bare_value(std::string_view text);

}  // namespace bumblebee::serve
