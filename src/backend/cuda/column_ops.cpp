// Operations that move columns or change each element by itself: nothing of them becomes one kernel with another.
#include "backend/cuda/kernels/columns.h"
#include "backend/cuda/ops.h"

namespace bumblebee::cuda {
namespace {

size_t count_of(const Tensor& x) { return size_t(x.rows()) * size_t(x.cols()); }

}  // namespace

void CudaOps::multiply(Tensor& x, float factor) {
  settle();
  x = make_writable(x);
  cuda::multiply(data(x), factor, count_of(x), stream());
}

Tensor CudaOps::columns(const Tensor& x, int first, int count) {
  BB_CHECK(first >= 0 && count >= 0 && first + count <= x.cols(), "columns ", first, " and ", count);
  settle_for(x);
  Tensor y = pool_->make(x.rows(), count);
  take_columns(data(x), x.rows(), x.cols(), first, count, data(y), stream());
  return y;
}

void CudaOps::split(const Tensor& x, const SplitParams& split, std::span<Tensor> y) {
  BB_CHECK(split.group_cols() * split.groups == x.cols(), "cols ", x.cols(), " of ", split.groups, " groups of ",
           split.group_cols());
  BB_CHECK(split.pieces.size() <= size_t(kMostPieces) && y.size() <= size_t(kMostParts), split.pieces.size(),
           " pieces");
  settle_for(x);
  SplitArgs args{.x = data(x), .rows = x.rows(), .groups = split.groups, .group_cols = split.group_cols()};
  int first = 0;
  for (const SplitParams::Piece& piece : split.pieces) {
    const size_t to = size_t(piece.to);
    BB_CHECK(to < y.size(), "output ", piece.to);
    args.piece[args.pieces++] = {.first = first, .cols = piece.cols, .to = piece.to, .at = args.y_cols[to]};
    args.y_cols[to] += piece.cols * split.groups;
    first += piece.cols;
  }
  for (size_t i = 0; i < y.size(); ++i) {
    y[i] = pool_->make(x.rows(), args.y_cols[i]);
    args.y[i] = data(y[i]);
  }
  cuda::split(args, stream());
}

void CudaOps::add_expert_bias(Tensor& y, const Routing& routing, const Tensor& bias) {
  BB_CHECK(y.rows() == routing.order.rows() * routing.order.cols(), "rows ", y.rows());
  settle_for(y);
  y = make_writable(y);
  cuda::add_expert_bias({.y = data(y),
                         .bias = data(bias),
                         .experts = elements<int32_t>(routing.experts),
                         .order = elements<int32_t>(routing.order),
                         .assignments = y.rows(),
                         .cols = y.cols()},
                        stream());
}

}  // namespace bumblebee::cuda
