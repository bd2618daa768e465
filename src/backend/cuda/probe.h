// Whether a card can be used, and the words that say why not. Knows no CUDA.
#pragma once

#include <string>

namespace bumblebee::cuda {

/// What the driver and the runtime say of one device. Versions are CUDA's: 13020 is 13.2; a driver of 0 is none.
struct Probe {
  int driver = 0, runtime = 0;
  int devices = 0;
  std::string error;  // of asking for the devices, where that failed for another reason than the driver's age
  std::string name;   // of the device
  int major = 0, minor = 0;
};

inline constexpr int kLeastMajor = 8;

/// Empty when it can be used.
std::string absent_text(const Probe& probe);

}  // namespace bumblebee::cuda
