// What both halves of the engine's loop make of errors and times.
#pragma once

#include <chrono>
#include <exception>
#include <string>

#include "base/error.h"

namespace bumblebee::engine {

inline double seconds(std::chrono::steady_clock::duration d) { return std::chrono::duration<double>(d).count(); }

/// A separate exception for every request: one object shared between threads would be counted by all of them.
inline std::exception_ptr error_of(ErrorCode code, const std::string& what) {
  return std::make_exception_ptr(Error(code, "engine", what));
}

}  // namespace bumblebee::engine
