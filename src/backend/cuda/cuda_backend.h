// NVIDIA cards of compute capability 8.0 and newer (docs/internals/cuda.md).
#pragma once

#include "backend/backend.h"

namespace bumblebee {

BackendEntry cuda_backend_entry();

}  // namespace bumblebee
