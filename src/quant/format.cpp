// How a format is spoken of in messages.
#include "quant/format.h"

#include "base/error.h"

namespace bumblebee {
namespace {

[[noreturn]] void refuse(std::string_view backend, const HostWeight& w, const char* what) {
  throw Error(ErrorCode::unsupported, backend, cat(w.name, ": ", what, " are not implemented on this device"));
}

void require_one_matrix(std::string_view backend, const HostWeight& w) {
  if (w.experts != 1) refuse(backend, w, "stacks of experts");
  if (w.codes_stride != 0 || w.scales_stride != 0) refuse(backend, w, "rows with strides");
}

}  // namespace

std::string to_string(const Format& format) {
  if (format.kind == Format::Kind::dense) return std::string(to_string(format.scale));
  if (format == Format::mxfp4()) return "mxfp4";
  if (format == Format::mxfp8()) return "mxfp8";
  if (format == Format::nvfp4()) return "nvfp4";
  const char* const codes = format.codes == Format::Codes::uint   ? ""
                            : format.codes == Format::Codes::e2m1 ? " e2m1"
                                                                  : " e4m3";
  return cat("affine ", int(format.bits), "-bit", codes, " group ", format.group, " (", to_string(format.scale),
             format.biased ? ")" : ", no bias)");
}

std::string_view to_string(QuantMode mode) {
  switch (mode) {
    case QuantMode::affine: return "affine";
    case QuantMode::mxfp4: return "mxfp4";
    case QuantMode::mxfp8: return "mxfp8";
    case QuantMode::nvfp4: return "nvfp4";
  }
  BB_UNREACHABLE();
}

std::optional<QuantMode> quant_mode_from_string(std::string_view name) {
  for (const QuantMode mode : {QuantMode::affine, QuantMode::mxfp4, QuantMode::mxfp8, QuantMode::nvfp4}) {
    if (to_string(mode) == name) return mode;
  }
  return std::nullopt;
}

QuantSpec QuantSpec::of(QuantMode mode) {
  if (mode == QuantMode::affine) return {};
  return spec_of(format_of({0, 0, mode}, DType::f32));
}

std::string to_string(const QuantSpec& spec) {
  return spec.mode == QuantMode::affine ? cat(spec.bits, "-bit group ", spec.group) : std::string(to_string(spec.mode));
}

Format format_of(const QuantSpec& spec, DType storage) {
  switch (spec.mode) {
    case QuantMode::affine: return Format::affine(spec.bits, spec.group, storage, storage);
    case QuantMode::mxfp4: return Format::mxfp4();
    case QuantMode::mxfp8: return Format::mxfp8();
    case QuantMode::nvfp4: return Format::nvfp4();
  }
  BB_UNREACHABLE();
}

QuantSpec spec_of(const Format& f) {
  const QuantMode mode = f.codes == Format::Codes::uint ? QuantMode::affine
                         : f == Format::mxfp4()         ? QuantMode::mxfp4
                         : f == Format::mxfp8()         ? QuantMode::mxfp8
                                                        : QuantMode::nvfp4;
  return {f.bits, f.group, mode};
}

bool known_format(const Format& f) {
  return plain_format(f) || f == Format::mxfp4() || f == Format::mxfp8() || f == Format::nvfp4();
}

void require_plain(std::string_view backend, const HostWeight& w) {
  require_one_matrix(backend, w);
  if (!plain_format(w.format)) refuse(backend, w, "codes that are not unsigned integers with a scale and a bias");
}

void require_known(std::string_view backend, const HostWeight& w) {
  require_one_matrix(backend, w);
  if (!known_format(w.format)) refuse(backend, w, "codes and scales of these types together");
}

}  // namespace bumblebee
