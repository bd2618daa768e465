// The CPU as a device: f32 activations, weights used from their mapped bytes, kernels chosen once for this processor.
#pragma once

#include "backend/backend.h"

namespace bumblebee {

BackendEntry cpu_backend_entry();

}  // namespace bumblebee
