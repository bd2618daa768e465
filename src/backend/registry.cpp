// Names the concrete backends and refuses, before anything is read, what a device cannot do.
#include "backend/registry.h"

#include <algorithm>
#include <charconv>
#include <string>

#include "backend/cpu/cpu_backend.h"
#ifdef BB_WITH_CUDA
#include "backend/cuda/cuda_backend.h"
#endif
#include "backend/ref/ref_backend.h"

namespace bumblebee {
namespace {

std::vector<BackendEntry>& entries() {
  static std::vector<BackendEntry> list = {
      cpu_backend_entry(),
      ref_backend_entry(),
#ifdef BB_WITH_CUDA
      cuda_backend_entry(),
#endif
  };
  return list;
}

/// What weights may fill: of a device that copies them, what is free now.
uint64_t room_on(const Device& device) {
  return device.entry->own_memory ? device.entry->free_bytes(device.index) : device.entry->memory_bytes(device.index);
}

void check_memory(std::string_view name, const Device& device, uint64_t bytes) {
  if (bytes == 0) return;
  const uint64_t there = room_on(device);
  if (bytes <= there) return;
  throw Error(ErrorCode::out_of_memory, name,
              cat("memory of the device: expected at least ", bytes, " bytes for the weights and one sequence, got ",
                  there, device.entry->own_memory ? " free" : ""));
}

bool lacks(const BackendEntry& entry, Operation operation) {
  return std::find(entry.lacking.begin(), entry.lacking.end(), operation) != entry.lacking.end();
}

bool able(const Device& device, std::span<const Format> formats, uint64_t bytes,
          std::span<const Operation> operations) {
  const BackendEntry& entry = *device.entry;
  return entry.absent(device.index).empty() &&
         std::none_of(operations.begin(), operations.end(),
                      [&](Operation operation) { return lacks(entry, operation); }) &&
         std::all_of(formats.begin(), formats.end(),
                     [&](const Format& format) { return entry.lacks(device.index, format).empty(); }) &&
         (bytes == 0 || bytes <= room_on(device));
}

/// The first device with memory of its own that can do it; else the host.
std::string best_device(std::span<const Format> formats, uint64_t bytes, std::span<const Operation> operations) {
  for (const BackendEntry& entry : backends()) {
    if (!entry.own_memory) continue;
    const int count = entry.count();
    for (int device = 0; device < count; ++device) {
      if (able({&entry, device}, formats, bytes, operations)) return name_of({&entry, device});
    }
  }
  return std::string(backends().front().name);
}

/// "cpu, ref": the devices of this machine that can do all formats.
std::string capable(std::span<const Format> formats, std::span<const Operation> operations) {
  std::string names;
  for (const BackendEntry& entry : backends()) {
    const int count = entry.count();
    for (int device = 0; device < count; ++device) {
      if (able({&entry, device}, formats, 0, operations))
        names += (names.empty() ? "" : ", ") + name_of({&entry, device});
    }
  }
  return names.empty() ? "none" : names;
}

}  // namespace

std::string name_of(const Device& device) {
  const std::string name(device.entry->name);
  return device.entry->count() > 1 ? cat(name, ":", device.index) : name;
}

const std::vector<BackendEntry>& backends() { return entries(); }

void register_backend(const BackendEntry& entry) { entries().push_back(entry); }

Device require_device(std::string_view wanted, std::span<const Format> formats, uint64_t bytes,
                      std::span<const Operation> operations) {
  const std::string best = wanted == "auto" ? best_device(formats, bytes, operations) : "";
  const std::string_view name = best.empty() ? wanted : best;
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
                      "; devices that can run this: ", capable(formats, operations)));
    }
    if (const std::string why = entry.absent(device.index); !why.empty()) {
      throw Error(ErrorCode::device, name,
                  cat("device is absent: ", why, "; devices that can run this: ", capable(formats, operations)));
    }
    const auto refuse = [&](const std::string& operation) {
      throw Error(ErrorCode::device, name,
                  cat("operation ", operation, " is not available on device '", name,
                      "'; devices that can: ", capable(formats, operations)));
    };
    for (const Operation operation : operations) {
      if (lacks(entry, operation)) refuse(name_of(operation));
    }
    for (const Format& format : formats) {
      if (const std::string operation = entry.lacks(device.index, format); !operation.empty()) refuse(operation);
    }
    device.entry = &entry;
    check_memory(name, device, bytes);
    return device;
  }
  std::string operation = "matmul";
  if (!formats.empty()) operation += "(" + to_string(formats.front()) + ")";
  throw Error(ErrorCode::device, name,
              cat("no such device in this build: '", name, "'; devices that can: ", capable(formats, operations),
                  " (wanted for ", operation, ")"));
}

}  // namespace bumblebee
