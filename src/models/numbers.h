// Numbers of a config that become floats. One that a float cannot hold would be zero or infinite there, and so would
// what is multiplied or divided by it.
#pragma once

#include <cfloat>
#include <string_view>

#include "base/error.h"
#include "base/json.h"

namespace bumblebee::models {

/// Throws Error(bad_config) for what is not positive, or not as a float; `kind` stands before the key.
inline double positive_or(const Json& object, const char* key, std::string_view where, double fallback,
                          std::string_view kind = "") {
  const double value = number_or(object, key, where, fallback);
  if (!(value >= FLT_MIN && value <= FLT_MAX)) {
    throw Error(ErrorCode::bad_config, where,
                cat(kind, "'", key, "': expected a positive number that a float holds, got ", value));
  }
  return value;
}

}  // namespace bumblebee::models
