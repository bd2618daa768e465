// Operations of experts. Who is routed where is known on the card only: a routing's `order` is followed there by lists
// of tiles, and kernels are launched for as many as there could be.
#include <array>
#include <utility>
#include <vector>

#include "backend/cuda/kernels/experts.h"
#include "backend/cuda/kernels/matmul_wide.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/weights.h"

namespace bumblebee::cuda {
namespace {

ExpertShape shape_of(const Routing& routing, int experts) {
  return {routing.order.rows(), routing.order.cols(), experts};
}

/// Of 64 rows, or of few.
ExpertTiles tiles_of(const Routing& routing, int experts, ExpertRows rows, bool wide) {
  const ExpertShape shape = shape_of(routing, experts);
  const ExpertPlaces at = expert_places(shape);
  std::byte* const order = elements<std::byte>(routing.order);
  const int tile_rows = wide ? kWideTileRows : few_tile_rows(shape);
  return {.tile = reinterpret_cast<const ExpertTile*>(order + (wide ? at.wide : at.few)),
          .count = reinterpret_cast<const int32_t*>(order + at.counts) + (wide ? 1 : 0),
          .row_of = rows == ExpertRows::batch ? reinterpret_cast<const int32_t*>(order + at.row_of) : nullptr,
          .most = most_tiles(shape, tile_rows),
          .tile_rows = tile_rows};
}

}  // namespace

Routing CudaOps::route(const Tensor& logits, const RouterParams& router) {
  settle();
  BB_CHECK(router.top_k <= router.experts && logits.cols() == router.experts, router.top_k, " of ", router.experts);
  const ExpertShape shape{logits.rows(), router.top_k, router.experts};
  Routing routing{pool_->make(shape.rows, shape.top_k, DType::i32), pool_->make(shape.rows, shape.top_k),
                  Tensor(pool_->take(expert_places(shape).end), DType::i32, shape.rows, shape.top_k)};
  cuda::route({.logits = data(logits),
               .bias = router.bias ? data(router.bias) : nullptr,
               .experts = elements<int32_t>(routing.experts),
               .weights = data(routing.weights),
               .order = elements<std::byte>(routing.order),
               .shape = shape,
               .groups = router.groups,
               .top_groups = router.top_groups,
               .softmax = router.score == RouterParams::Score::softmax,
               .normalise = router.normalise,
               .scale = router.scale},
              stream());
  return routing;
}

bool CudaOps::takes_wide(const Routing& routing, const Weight& stack) const {
  // Of the batch's rows, as a product of all of them: a row's bits do not depend on who chose the same expert.
  return fast_ && routing.order.rows() > kFewRows && has_matmul_wide(view_of(stack), stack.experts);
}

void CudaOps::multiply_few(const Tensor& x, ExpertRows rows, const Routing& routing, std::span<const ProductTerm> terms,
                           int experts) {
  matmul_few_experts(data(x), tiles_of(routing, experts, rows, false), terms.data(), int(terms.size()), stream());
}

void CudaOps::multiply_wide(const Tensor& x, ExpertRows rows, const Routing& routing,
                            std::span<const ProductTerm> terms, int experts) {
  const ExpertTiles tiles = tiles_of(routing, experts, rows, true);
  const WeightView& weight = terms.front().weight;
  const int kept = tiles.most * kWideTileRows;
  const std::shared_ptr<Buffer> workspace = pool_->take(wide_bytes(kept, weight.in, weight.group));
  const WideInput input = wide_input(address(*workspace), kept, weight.in, weight.group);
  round_wide(data(x), input, stream(), tiles);
  matmul_wide_experts(input, tiles, terms.data(), int(terms.size()), stream());
}

void CudaOps::matmul_experts(const Tensor& x, ExpertRows rows, const Routing& routing,
                             std::span<const Weight* const> stacks, std::span<Tensor> y) {
  settle();
  const int experts = stacks.front()->experts, assignments = routing.order.rows() * routing.order.cols();
  const auto alike = [](const WeightView& a, const WeightView& b) { return a.bits == b.bits && a.group == b.group; };
  for (size_t first = 0; first < stacks.size();) {
    const Weight& one = *stacks[first];
    const bool wide = takes_wide(routing, one);
    std::vector<ProductTerm> terms;
    for (; first < stacks.size() && terms.size() < kMaxTerms; ++first) {
      const Weight& stack = *stacks[first];
      BB_CHECK(stack.in == x.cols() && stack.experts == experts, "in ", stack.in, " experts ", stack.experts);
      if (takes_wide(routing, stack) != wide || (wide && !alike(view_of(one), view_of(stack)))) break;
      y[first] = pool_->make(assignments, stack.out);
      terms.push_back({.weight = view_of(stack), .bias = nullptr, .y = data(y[first])});
    }
    if (assignments > 0 && wide) multiply_wide(x, rows, routing, terms, experts);
    if (assignments > 0 && !wide) multiply_few(x, rows, routing, terms, experts);
  }
}

Tensor CudaOps::sum_experts(const Tensor& y, const Routing& routing) {
  settle();
  Tensor sum = pool_->make(routing.order.rows(), y.cols());
  cuda::sum_experts(data(y), elements<int32_t>(routing.order), data(routing.weights), sum.rows(), routing.order.cols(),
                    y.cols(), data(sum), stream());
  return sum;
}

Tensor CudaOps::gate_rows(Tensor y, const Tensor& gate) {
  settle();
  y = make_writable(y);
  cuda::gate_rows(data(y), data(gate), y.rows(), y.cols(), stream());
  return y;
}

}  // namespace bumblebee::cuda
