// Several adapters as one: Σ wᵢ·Δᵢ by putting their factors side by side, so that no rank is lost and nothing is
// approximated.
#pragma once

#include <string>
#include <vector>

#include "lora/adapter.h"

namespace bumblebee::lora {

struct Weighted {
  Adapter adapter;
  double weight = 1;
};

struct Merged {
  Adapter adapter;
  std::vector<std::string> notes = {};        // what was rounded
  std::vector<std::string> other_bases = {};  // than the first one's
};

/// The linear combination. A module has the sum of the ranks of those adapters that change it. Exact where the products
/// weight·scale of a module are equal or differ by powers of two; else B is rounded once, to 2^-24 of each value.
/// Throws Error(unsupported) naming adapter and module for DoRA, full fine-tunes, whole weights and biases, which do
/// not combine linearly, and for embeddings out of both formats; Error(bad_request) for none at all, weights that are
/// not finite, sizes that differ, and an adapter of another base than the first one's that shares no module with it.
Merged merge(const std::vector<Weighted>& parts);

}  // namespace bumblebee::lora
