// Adapters of experts: what lora.cu does for a row, for each row at each of its experts, whose terms are looked up by
// the row's slot and the expert. Sums have the same order.
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/lora.h"
#include "backend/cuda/kernels/lora_rows.cuh"
#include "backend/cuda/kernels/ptx.cuh"

namespace bumblebee::cuda {
namespace {

constexpr int kThreads = 256;

/// What the slot of a row has for the expert of its `number`-th assignment, as a module without anything else.
__device__ inline SiteView terms_of(const LoraExpertArgs& a, const BatchView& batch, int number) {
  SiteView terms;
  const SiteView* site = site_of(batch, number / a.top_k, a.site);
  if (site == nullptr || site->expert_count == 0) return terms;
  const ExpertTermsView& of = site->experts[__ldcg(a.experts + number)];
  terms.terms = int32_t(of.terms);
  terms.term = of.term;
  if (of.terms > 0) terms.first = *of.term;
  return terms;
}

/// u of an assignment: a block for each rank.
__global__ void __launch_bounds__(kShrinkWarps* kWarp) shrink_kernel(LoraExpertArgs a, BatchView batch) {
  extern __shared__ float pieces[];  // [pieces of x]
  launch_dependents();
  const int number = int(blockIdx.x), wanted = int(blockIdx.y);
  wait_for_inputs();
  const SiteView terms = terms_of(a, batch, number);
  const RankPlace place = place_of_rank(terms, wanted);
  if (place.term == nullptr) return;
  const int assignment = __ldcg(a.order + number), row = a.by_assignment ? assignment : number / a.top_k;
  float sum = 0;
  if (place.exists()) sum = dot_of_rank(*place.term, place.rank, a.x + size_t(row) * size_t(a.in), a.in, pieces);
  if (threadIdx.x == 0) __stcg(a.u + size_t(number) * size_t(a.ranks) + size_t(wanted), sum);
}

__global__ void __launch_bounds__(kThreads) expand_kernel(LoraExpertArgs a, BatchView batch) {
  extern __shared__ __align__(16) float u[];  // [ranks]
  launch_dependents();
  const int number = int(blockIdx.x), n = int(blockIdx.y) * kThreads + int(threadIdx.x);
  wait_for_inputs();
  const SiteView terms = terms_of(a, batch, number);
  if (terms.terms == 0) return;
  for (int i = int(threadIdx.x); i < a.ranks; i += kThreads)
    u[i] = __ldcg(a.u + size_t(number) * size_t(a.ranks) + size_t(i));
  __syncthreads();
  if (n >= a.out) return;
  float* const at = a.y + size_t(__ldcg(a.order + number)) * size_t(a.out) + size_t(n);
  __stcg(at, __ldcg(at) + add_terms(terms, 0, n, u, 0.0f));
}

}  // namespace

void lora_experts(const LoraExpertArgs& args, const BatchView& batch, cudaStream_t stream) {
  if (args.ranks == 0) return;
  const unsigned assignments = unsigned(args.rows * args.top_k);
  launch_overlapping("lora_experts", shrink_kernel, {assignments, unsigned(args.ranks)}, {kShrinkWarps * kWarp},
                     size_t(pieces_of(args.in)) * sizeof(float), stream, args, batch);
  launch_overlapping("lora_experts", expand_kernel, {assignments, unsigned((args.out + kThreads - 1) / kThreads)},
                     {kThreads}, size_t(args.ranks) * sizeof(float), stream, args, batch);
}

}  // namespace bumblebee::cuda
