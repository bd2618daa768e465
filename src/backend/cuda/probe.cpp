// One sentence for each way in which a card is missing.
#include "backend/cuda/probe.h"

#include "base/error.h"

namespace bumblebee::cuda {
namespace {

std::string version_text(int version) { return cat(version / 1000, ".", version % 1000 / 10); }

}  // namespace

std::string absent_text(const Probe& probe) {
  if (probe.driver == 0) return "no NVIDIA driver was found on this machine";
  // A driver runs what was built with any release of its own major version, and of older ones.
  if (probe.driver / 1000 < probe.runtime / 1000) {
    return cat("the NVIDIA driver is too old: expected one for CUDA ", version_text(probe.runtime / 1000 * 1000),
               " or newer, got one for CUDA ", version_text(probe.driver));
  }
  if (!probe.error.empty()) return cat("the NVIDIA driver answers: ", probe.error);
  if (probe.devices == 0) return "there is a driver, but no NVIDIA GPU";
  if (probe.major < kLeastMajor) {
    return cat(probe.name, " is too old: expected compute capability ", kLeastMajor, ".0 or newer, got ", probe.major,
               ".", probe.minor);
  }
  return "";
}

}  // namespace bumblebee::cuda
