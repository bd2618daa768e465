// A weight matrix as a backend holds it: the mathematics is public, the packing is the backend's own affair.
#pragma once

#include <memory>
#include <string>

#include "quant/format.h"

namespace bumblebee {

/// A backend's packed bytes. Private to it, never written to disk.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
};

/// W [out, in] on one backend, or a stack of them, one for each expert. A handle; cheap to copy.
struct Weight {
  Format format;
  int out = 0, in = 0;
  std::shared_ptr<const PackedWeight> packed;
  int experts = 1;
  explicit operator bool() const { return packed != nullptr; }
};

}  // namespace bumblebee
