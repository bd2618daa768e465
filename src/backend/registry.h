// The backends of this build. registry.cpp is the only file that names them.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "backend/backend.h"

namespace bumblebee {

/// All backends, the default one first.
std::span<const BackendEntry> backends();

/// The backend called `name`, after checking that it is there and can do every format; throws Error(device) naming the
/// operation, the device and the devices that can. Nothing is allocated.
const BackendEntry& require_backend(std::string_view name, std::span<const Format> formats);

}  // namespace bumblebee
