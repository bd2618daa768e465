// Operations of experts. Who is routed where is known on the card only: a routing's `order` is followed there by lists
// of tiles, and kernels are launched for as many as there could be. As in fused_ops.cpp a product waits for glu(), and
// a norm may become part of the products of one row.
#include <array>
#include <utility>
#include <vector>

#include "backend/cuda/kernels/experts.h"
#include "backend/cuda/kernels/lora.h"
#include "backend/cuda/kernels/matmul.h"
#include "backend/cuda/kernels/matmul_wide.h"
#include "backend/cuda/kernels/product.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/stages.h"
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

ExpertSum parts_of(const Tensor& y, const Routing& routing) {
  return {.y = data(y),
          .order = elements<int32_t>(routing.order),
          .weights = data(routing.weights),
          .top_k = routing.order.cols()};
}

}  // namespace

Routing CudaOps::route(const Tensor& logits, const RouterParams& router) {
  settle_for(logits);
  BB_CHECK(logits.cols() == router.experts && router.experts % router.groups == 0 &&
               router.top_k <= router.experts / router.groups * router.top_groups,
           router.top_k, " of ", router.experts, " in ", router.groups, " groups");
  const ExpertShape shape{logits.rows(), router.top_k, router.experts};
  Routing routing{pool_->make(shape.rows, shape.top_k, DType::i32), pool_->make(shape.rows, shape.top_k),
                  Tensor(pool_->take(expert_places(shape).end), DType::i32, shape.rows, shape.top_k)};
  cuda::route({.logits = data(logits),
               .bias = router.bias ? data(router.bias) : nullptr,
               .expert_scale = router.expert_scale ? data(router.expert_scale) : nullptr,
               .experts = elements<int32_t>(routing.experts),
               .weights = data(routing.weights),
               .order = elements<std::byte>(routing.order),
               .shape = shape,
               .groups = router.groups,
               .top_groups = router.top_groups,
               .best_alone = router.best_alone,
               .softmax = router.score == RouterParams::Score::softmax,
               .normalise = router.normalise,
               .scale = router.scale,
               .beside_sum = router.beside_sum},
              stream());
  return routing;
}

CudaOps::ExpertKernel CudaOps::kernel_of(const Routing& routing, const Weight& stack) const {
  const WeightView& w = view_of(stack);
  const int rows = routing.order.rows();
  if (!fast_) return ExpertKernel::few;
  // Of the batch's rows, as in a product of all of them: a row's bits do not depend on who chose the same expert.
  if (rows > kStageRows) return has_matmul_wide(w) ? ExpertKernel::wide : ExpertKernel::few;
  return has_stage(w) && fits_experts(stage_of(w)) ? ExpertKernel::stage : ExpertKernel::few;
}

void CudaOps::experts_in_stage(const Tensor& x, ExpertRows rows, const Routing& routing,
                               std::span<const Weight* const> stacks, std::span<Tensor> y) {
  settle_product();
  settle_rotation();
  const WeightView& one = view_of(*stacks.front());
  const ExpertTiles tiles = tiles_of(routing, stacks.front()->experts, rows, false);
  WaitingProduct product;
  ProductStage& stage = product.stage;
  stage = stage_of(one);
  stage.rows = stage.at_once = tiles.tile_rows;
  stage.experts = {tiles.tile, tiles.count, tiles.row_of, tiles.most, stacks.front()->experts};
  const bool normed = rows == ExpertRows::batch && norm_ && same(norm_->y, x);
  if (!normed) settle_for(x);
  stage.input = normed ? input_of(x) : StageInput{StageInput::Kind::plain, data(x), nullptr, 0, {}};
  product.input = normed ? norm_->x : x;
  product.order = routing.order;
  if (tiles.tile_rows > 1) {
    product.digits = pool_->take(expert_digit_bytes(stage.experts, one.in));
    product.steps = pool_->take(expert_step_bytes(stage.experts, one.in));
    stage.input.rounded = {reinterpret_cast<uint8_t*>(address(*product.digits)), address(*product.steps)};
    check(quantize_experts(stage.input, stage.experts, one.in, stream()), "quantize_experts");
    stage.input.kind = StageInput::Kind::digits;
  }
  for (size_t s = 0; s < stacks.size(); ++s) {
    const WeightView& w = view_of(*stacks[s]);
    y[s] = pool_->make(routing.order.rows() * routing.order.cols(), w.out);
    product.y[s] = y[s];
    stage.term[stage.terms++] = {.codes = w.codes,
                                 .scales = w.scales,
                                 .biases = w.biases,
                                 .bias = nullptr,
                                 .y = data(y[s]),
                                 .stride = w.out,
                                 .out = w.out};
  }
  product_ = std::move(product);
  if (!waits_) settle();
}

void CudaOps::experts_at_once(const Tensor& x, ExpertRows rows, const Routing& routing,
                              std::span<const Weight* const> stacks, std::span<Tensor> y, bool wide) {
  if (!wide) settle_for(x);
  std::array<ProductTerm, kMaxTerms> terms;
  for (size_t s = 0; s < stacks.size(); ++s) {
    y[s] = pool_->make(routing.order.rows() * routing.order.cols(), stacks[s]->out);
    terms[s] = {.weight = view_of(*stacks[s]), .bias = nullptr, .y = data(y[s])};
  }
  const int count = int(stacks.size());
  const ExpertTiles tiles = tiles_of(routing, stacks.front()->experts, rows, wide);
  if (!wide) return matmul_few_experts(data(x), tiles, terms.data(), count, stream());
  const WeightView& weight = terms.front().weight;
  const int kept = tiles.most * kWideTileRows;
  const std::shared_ptr<Buffer> workspace = pool_->take(wide_bytes(kept, weight.in));
  const WideInput input = wide_input(address(*workspace), kept, weight.in);
  round_wide(wide_rows_of(x), input, stream(), tiles);
  matmul_wide_experts(input, tiles, terms.data(), count, stream());
}

void CudaOps::matmul_experts(const Tensor& x, ExpertRows rows, const Routing& routing,
                             std::span<const Weight* const> stacks, std::span<Tensor> y) {
  static_assert(kStageTerms <= kMaxTerms);
  for (size_t first = 0; first < stacks.size();) {
    const Weight& one = *stacks[first];
    const ExpertKernel kernel = kernel_of(routing, one);
    size_t end = first;
    for (; end < stacks.size() && end - first < kStageTerms; ++end) {
      const Weight& stack = *stacks[end];
      BB_CHECK(stack.in == x.cols() && stack.experts == one.experts, "in ", stack.in, " experts ", stack.experts);
      if (kernel_of(routing, stack) != kernel) break;
      if (kernel != ExpertKernel::few && !same_format(view_of(one), view_of(stack))) break;
    }
    const std::span<const Weight* const> some = stacks.subspan(first, end - first);
    const std::span<Tensor> to = y.subspan(first, end - first);
    if (routing.order.rows() == 0) {
      for (size_t s = 0; s < some.size(); ++s) to[s] = pool_->make(0, some[s]->out);
    } else if (kernel == ExpertKernel::stage) {
      experts_in_stage(x, rows, routing, some, to);
    } else {
      experts_at_once(x, rows, routing, some, to, kernel == ExpertKernel::wide);
    }
    first = end;
  }
}

void CudaOps::lora_experts(const Tensor& x, ExpertRows rows, const Routing& routing, std::span<const int> sites,
                           std::span<Tensor> y) {
  const int ranks = slots_.bounds().ranks;
  settle();
  if (ranks == 0) return;
  for (size_t s = 0; s < sites.size(); ++s) {
    y[s] = make_writable(y[s]);
    const Tensor u = pool_->make(y[s].rows(), ranks);
    cuda::lora_experts({.x = data(x),
                        .y = data(y[s]),
                        .u = data(u),
                        .experts = elements<int32_t>(routing.experts),
                        .order = elements<int32_t>(routing.order),
                        .rows = routing.experts.rows(),
                        .top_k = routing.experts.cols(),
                        .in = x.cols(),
                        .out = y[s].cols(),
                        .site = sites[s],
                        .ranks = ranks,
                        .by_assignment = rows == ExpertRows::assignments},
                       batch_, stream());
  }
}

Tensor CudaOps::sum_experts(const Tensor& y, const Routing& routing) {
  settle_for(y);
  Tensor sum = pool_->make(routing.order.rows(), y.cols());
  sum_ = {.y = y, .routing = routing, .out = sum};
  if (!waits_) settle_product();
  return sum;
}

void CudaOps::settle_sum() {
  if (!sum_) return;
  const WaitingSum waiting = *std::exchange(sum_, {});
  if (waiting.out.unique()) return;  // what nobody can read need not be computed
  cuda::sum_experts(parts_of(waiting.y, waiting.routing), waiting.out.rows(), waiting.out.cols(), data(waiting.out),
                    stream());
}

bool CudaOps::add_sum(Tensor& x, const Tensor& delta, const NormParams* norm, Tensor& y) {
  // One handle here, one of the caller; columns as add_rms_norm's first kernel wants them.
  if (!sum_ || !same(sum_->out, delta) || delta.buffer().use_count() > 2 || x.cols() % 8 != 0) return false;
  const WaitingSum waiting = *std::exchange(sum_, {});
  settle();  // a norm of x as it was
  x = make_writable(x);
  if (norm != nullptr) y = pool_->make(x.rows(), x.cols());
  add_experts(data(x), parts_of(waiting.y, waiting.routing),
              {.x = data(x),
               .w = norm != nullptr ? data(norm->w) : nullptr,
               .y = norm != nullptr ? data(y) : nullptr,
               .rows = x.rows(),
               .cols = x.cols(),
               .width = x.cols(),
               .eps = norm != nullptr ? norm->eps : 0},
              batch_, stream());
  return true;
}

Tensor CudaOps::gate_rows(Tensor y, const Tensor& gate) {
  settle_for(y);
  settle_for(gate);
  y = make_writable(y);
  cuda::gate_rows(data(y), data(gate), y.rows(), y.cols(), stream());
  return y;
}

}  // namespace bumblebee::cuda
