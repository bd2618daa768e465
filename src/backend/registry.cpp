// Names the concrete backends and refuses, before anything is read, what a device cannot do.
#include "backend/registry.h"

#include <charconv>
#include <string>

#include "backend/cpu/cpu_backend.h"
#include "backend/ref/ref_backend.h"

namespace bumblebee {
namespace {

std::vector<BackendEntry>& entries() {
  static std::vector<BackendEntry> list = {cpu_backend_entry(), ref_backend_entry()};
  return list;
}

/// "cpu, ref": the devices of this machine that can do all formats.
std::string capable(std::span<const Format> formats) {
  std::string names;
  for (const BackendEntry& entry : backends()) {
    const int count = entry.count();
    for (int device = 0; device < count; ++device) {
      bool able = entry.absent(device).empty();
      for (const Format& format : formats) able = able && entry.lacks(device, format).empty();
      if (!able) continue;
      names += (names.empty() ? "" : ", ") + std::string(entry.name);
      if (count > 1) names += ":" + std::to_string(device);
    }
  }
  return names.empty() ? "none" : names;
}

void check_memory(std::string_view name, const Device& device, uint64_t bytes) {
  const uint64_t there = device.entry->memory_bytes(device.index);
  if (bytes <= there) return;
  throw Error(
      ErrorCode::out_of_memory, name,
      cat("memory of the device: expected at least ", bytes, " bytes for the weights and one sequence, got ", there));
}

}  // namespace

const std::vector<BackendEntry>& backends() { return entries(); }

void register_backend(const BackendEntry& entry) { entries().push_back(entry); }

Device require_device(std::string_view name, std::span<const Format> formats, uint64_t bytes) {
  const size_t colon = name.find(':');
  Device device;
  if (colon != std::string_view::npos) {
    const char* const end = name.data() + name.size();
    const auto [rest, error] = std::from_chars(name.data() + colon + 1, end, device.index);
    if (error != std::errc() || rest != end || device.index < 0) device.index = -1;
  }
  for (const BackendEntry& entry : backends()) {
    if (device.index < 0 || entry.name != name.substr(0, colon)) continue;
    if (const int count = entry.count(); device.index >= std::max(count, 1)) {
      throw Error(ErrorCode::device, name,
                  cat("device is absent: expected a number below ", count, ", got ", device.index,
                      "; devices that can run this: ", capable(formats)));
    }
    if (const std::string why = entry.absent(device.index); !why.empty()) {
      throw Error(ErrorCode::device, name,
                  cat("device is absent: ", why, "; devices that can run this: ", capable(formats)));
    }
    for (const Format& format : formats) {
      if (const std::string operation = entry.lacks(device.index, format); !operation.empty()) {
        throw Error(ErrorCode::device, name,
                    cat("operation ", operation, " is not available on device '", name,
                        "'; devices that can: ", capable(formats)));
      }
    }
    device.entry = &entry;
    check_memory(name, device, bytes);
    return device;
  }
  std::string operation = "matmul";
  if (!formats.empty()) operation += "(" + to_string(formats.front()) + ")";
  throw Error(ErrorCode::device, name,
              cat("no such device in this build: '", name, "', wanted for ", operation,
                  "; devices that can: ", capable(formats)));
}

}  // namespace bumblebee
