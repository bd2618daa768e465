// Names the concrete backends and refuses, before anything is read, what a device cannot do.
#include "backend/registry.h"

#include <array>
#include <string>

#include "backend/cpu/cpu_backend.h"
#include "backend/ref/ref_backend.h"

namespace bumblebee {
namespace {

/// "cpu, ref": the devices of this machine that can do all formats.
std::string capable(std::span<const Format> formats) {
  std::string names;
  for (const BackendEntry& entry : backends()) {
    bool able = entry.absent().empty();
    for (const Format& format : formats) able = able && entry.lacks(format).empty();
    if (able) names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  return names.empty() ? "none" : names;
}

}  // namespace

std::span<const BackendEntry> backends() {
  static const std::array<BackendEntry, 2> entries = {cpu_backend_entry(), ref_backend_entry()};
  return entries;
}

const BackendEntry& require_backend(std::string_view name, std::span<const Format> formats) {
  for (const BackendEntry& entry : backends()) {
    if (entry.name != name) continue;
    if (const std::string why = entry.absent(); !why.empty()) {
      throw Error(ErrorCode::device, name,
                  cat("device is absent: ", why, "; devices that can run this: ", capable(formats)));
    }
    for (const Format& format : formats) {
      if (const std::string operation = entry.lacks(format); !operation.empty()) {
        throw Error(ErrorCode::device, name,
                    cat("operation ", operation, " is not available on device '", name,
                        "'; devices that can: ", capable(formats)));
      }
    }
    return entry;
  }
  std::string operation = "matmul";
  if (!formats.empty()) operation += "(" + to_string(formats.front()) + ")";
  throw Error(ErrorCode::device, name,
              cat("no such device in this build: '", name, "', wanted for ", operation,
                  "; devices that can: ", capable(formats)));
}

}  // namespace bumblebee
