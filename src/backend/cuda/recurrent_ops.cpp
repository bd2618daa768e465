// Operations of recurrent layers, over the states that the bound batch names.
#include "backend/cuda/kernels/recurrent.h"
#include "backend/cuda/kv.h"
#include "backend/cuda/ops.h"

namespace bumblebee::cuda {

Tensor CudaOps::causal_conv(KvStore& store, int layer, const Tensor& x, const ConvParams& conv) {
  const CudaStates& states = static_cast<CudaKv&>(store).states();
  const StateShape& kept = store.shape().group_of(layer).state;
  BB_CHECK(kept.conv_rows == conv.w.rows() - 1 && kept.conv_cols == x.cols(), "kernel ", conv.w.rows(), " of ",
           x.cols());
  settle_for(x);
  Tensor y = pool_->make(x.rows(), x.cols());
  cuda::causal_conv({.x = data(x),
                     .w = data(conv.w),
                     .y = data(y),
                     .state_at = states.conv_at(store.shape().place(layer).index),
                     .taps = conv.w.rows(),
                     .cols = x.cols(),
                     .silu = conv.silu},
                    batch_, stream());
  return y;
}

Tensor CudaOps::delta_rule(KvStore& store, int layer, const Tensor& qkv, const Tensor& a, const Tensor& b,
                           const DeltaParams& d) {
  const CudaStates& states = static_cast<CudaKv&>(store).states();
  const StateShape& kept = store.shape().group_of(layer).state;
  BB_CHECK(kept.heads == d.value_heads && kept.key_dim == d.key_dim && kept.value_dim == d.value_dim, "heads of ",
           d.key_dim, " and ", d.value_dim);
  settle_for(qkv);
  settle_for(a);
  settle_for(b);
  Tensor y = pool_->make(qkv.rows(), d.value_cols());
  DeltaArgs args{.qkv = data(qkv),
                 .a = data(a),
                 .b = data(b),
                 .a_log = data(d.a_log),
                 .dt_bias = data(d.dt_bias),
                 .y = data(y),
                 .state_at = states.heads_at(store.shape().place(layer).index),
                 .key_heads = d.key_heads,
                 .value_heads = d.value_heads,
                 .key_dim = d.key_dim,
                 .value_dim = d.value_dim};
  const std::shared_ptr<Buffer> workspace = pool_->take(delta_workspace(args, qkv.rows()));
  args.workspace = reinterpret_cast<float*>(address(*workspace));
  cuda::delta_rule(args, batch_, stream());
  return y;
}

}  // namespace bumblebee::cuda
