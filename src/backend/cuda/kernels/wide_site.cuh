// Which adapters are part of products of many rows: by the slot's module alone, so that a row has one way in any
// company.
#pragma once

#include "backend/cuda/kernels/matmul_wide.h"

namespace bumblebee::cuda {

/// Terms alone, without biases, and few enough ranks.
__device__ inline bool is_wide(const SiteView& site) {
  if (site.terms == 0 || site.before_bias != 0 || site.dora_scale != nullptr || site.bias != nullptr ||
      site.weight.codes != nullptr)
    return false;
  int ranks = 0;
  for (int t = 0; t < site.terms; ++t) {
    const LowRankView& term = t == 0 ? site.first : site.term[t];
    if (term.bias != nullptr || term.element != Element::bf16) return false;
    ranks += padded_rank(term.rank);
  }
  return ranks <= kWideRanks;
}

}  // namespace bumblebee::cuda
