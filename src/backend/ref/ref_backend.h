// The oracle as a device: every operation in double, from the definitions in math.h, on one thread. Runs any model,
// slowly.
#pragma once

#include "backend/backend.h"

namespace bumblebee {

BackendEntry ref_backend_entry();

}  // namespace bumblebee
