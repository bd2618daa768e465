// How a format is spoken of in messages.
#include "quant/format.h"

#include "base/error.h"

namespace bumblebee {

std::string to_string(const Format& format) {
  if (format.kind == Format::Kind::dense) return std::string(to_string(format.scale));
  return cat("affine ", int(format.bits), "-bit group ", format.group, " (", to_string(format.scale), ")");
}

}  // namespace bumblebee
