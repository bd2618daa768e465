// How a format is spoken of in messages.
#include "quant/format.h"

#include "base/error.h"

namespace bumblebee {

std::string to_string(const Format& format) {
  if (format.kind == Format::Kind::dense) return std::string(to_string(format.scale));
  const char* const codes = format.codes == Format::Codes::uint   ? ""
                            : format.codes == Format::Codes::e2m1 ? " e2m1"
                                                                  : " e4m3";
  return cat("affine ", int(format.bits), "-bit", codes, " group ", format.group, " (", to_string(format.scale),
             format.biased ? ")" : ", no bias)");
}

void require_plain(std::string_view backend, const HostWeight& w) {
  const auto refuse = [&](const char* what) {
    throw Error(ErrorCode::unsupported, backend, cat(w.name, ": ", what, " are not implemented on this device"));
  };
  if (w.experts != 1) refuse("stacks of experts");
  if (w.codes_stride != 0 || w.scales_stride != 0) refuse("rows with strides");
  if (!plain_format(w.format)) refuse("codes that are not unsigned integers with a scale and a bias");
}

}  // namespace bumblebee
