// The backends of this build. registry.cpp is the only file that names them.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"

namespace bumblebee {

/// All backends, the default one first.
const std::vector<BackendEntry>& backends();

/// Adds one; for tests, which wrap those that are there. Before any other thread asks.
void register_backend(const BackendEntry& entry);

/// A device by its name: the backend's, with ":N" for one of several.
struct Device {
  const BackendEntry* entry = nullptr;
  int index = 0;
};

/// "cpu", "cuda", or "cuda:1" where there are several.
std::string name_of(const Device& device);

/// The device called `name` ("auto": the first card that can do it, else the processor), after checking that it is
/// there, can multiply by every format and lacks none of `operations`, and has `bytes` of memory; throws Error(device),
/// naming the operation, the device and the devices that can, or Error(out_of_memory) with the bytes needed and had.
/// Nothing is allocated.
Device require_device(std::string_view name, std::span<const Format> formats, uint64_t bytes = 0,
                      std::span<const Operation> operations = {});

}  // namespace bumblebee
