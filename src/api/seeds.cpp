// Random numbers of the system, and those that follow from one of them.
#include "api/seeds.h"

#include <sys/random.h>

#include <cerrno>

#include "base/error.h"
#include "base/rng.h"

namespace bumblebee::api {
namespace {

constexpr uint64_t kExact = (uint64_t{1} << 53) - 1;  // what a double holds

}  // namespace

uint64_t random_seed() {
  uint64_t seed = 0;
  while (::getrandom(&seed, sizeof seed, 0) != ssize_t(sizeof seed)) {
    if (errno != EINTR) throw Error(ErrorCode::device, "generation", "expected random numbers of the system, got none");
  }
  return seed & kExact;
}

uint64_t seed_of(uint64_t seed, int index) {
  if (index == 0) return seed;
  const auto words = philox(seed, uint64_t(index));
  return (uint64_t{words[0]} << 32 | words[1]) & kExact;
}

}  // namespace bumblebee::api
