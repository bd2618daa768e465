// Seeds of requests that name none, and of the answers to one request.
#pragma once

#include <cstdint>

namespace bumblebee::api {

/// Below 2^53: whoever prints it in JSON gets it back. Throws Error(device) where the system has no random numbers.
uint64_t random_seed();

/// Of answer `index` of a request with `seed`: the first has the seed itself.
uint64_t seed_of(uint64_t seed, int index);

}  // namespace bumblebee::api
