// Rotation of heads and attention, which may be one kernel, and the chain that runs beside it.
#include <utility>

#include "backend/cuda/kernels/attend.h"
#include "backend/cuda/kernels/rope.h"
#include "backend/cuda/kv.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/stages.h"

namespace bumblebee::cuda {

HeadRows CudaOps::heads_of(const Tensor& t, const Tensor& from, int head_dim, const NormParams* norm) const {
  if (!t) return {};
  return {.x = data(from),
          .y = data(t),
          .heads = t.cols() / head_dim,
          .norm = norm != nullptr ? data(norm->w) : nullptr,
          .eps = norm != nullptr ? norm->eps : 0,
          .normed = norm != nullptr ? norm->w.cols() : 0};
}

void CudaOps::norm_rope(Tensor& q, Tensor& k, int head_dim, const NormParams* q_norm, const NormParams* k_norm,
                        const RopeParams& rope) {
  settle();
  BB_CHECK(head_dim <= kMaxHeadDim, "heads of ", head_dim);
  // A single head is a whole row, which lora_norm norms as one: in that order here too.
  const auto alone = [&](const Tensor& t, const NormParams* norm) {
    return norm != nullptr && t && t.cols() == head_dim && norm->w.cols() == head_dim;
  };
  // Heads of rows that are alone go elsewhere, so that every block of attention may turn those that it reads.
  const bool elsewhere = waits_ && fast_ && batch_.alone && k && !alone(q, q_norm) && !alone(k, k_norm);
  if (!elsewhere) {
    q = make_writable(q);
    if (k) k = make_writable(k);
  }
  const auto norm_alone = [&](Tensor& t, const NormParams*& norm) {
    if (!alone(t, norm)) return;
    cuda::rms_norm(norm_args(t, t, *norm), batch_, stream());
    norm = nullptr;
  };
  norm_alone(q, q_norm);
  norm_alone(k, k_norm);
  const Tensor from_q = q, from_k = k;
  if (elsewhere) q = pool_->make(q.rows(), q.cols()), k = pool_->make(k.rows(), k.cols());
  rotation_ = {.q = q,
               .k = k,
               .from_q = from_q,
               .from_k = from_k,
               .q_heads = heads_of(q, from_q, head_dim, q_norm),
               .k_heads = heads_of(k, from_k, head_dim, k_norm),
               .rope = {.inv_freq = frequencies(rope.inv_freq),
                        .half = int(rope.inv_freq.size()),
                        .attention_factor = rope.attention_factor,
                        .first = rope.first,
                        .interleaved = rope.interleaved,
                        .long_inv_freq = rope.long_inv_freq.empty() ? nullptr : frequencies(rope.long_inv_freq),
                        .query_growth = rope.query_growth,
                        .query_span = rope.query_span},
               .head_dim = head_dim};
  if (!waits_) settle();
}

void CudaOps::settle_rotation() {
  if (!rotation_) return;
  const WaitingRotation waiting = *std::exchange(rotation_, {});
  cuda::norm_rope(waiting.q_heads, waiting.k_heads, waiting.head_dim, waiting.rope, batch_, stream());
}

Tensor CudaOps::attend(KvStore& store, int layer, const Tensor& q, const Tensor& k, const Tensor& v,
                       const AttentionParams& a) {
  const KvView kv = static_cast<const CudaKv&>(store).view(layer);
  BB_CHECK(kv.head_dim == a.head_dim && kv.kv_heads == a.kv_heads && kv.value_dim == a.value_dim && a.values() > 0,
           "heads of ", a.head_dim);
  settle_product();
  if (!links_.empty()) {
    ahead_ = {.pages = batch_.pages,
              .cached = batch_.cached,
              .first_page = batch_.first_page,
              .at = int64_t(kv.layer_at),
              .page_size = kv.page_size,
              .window = a.window,
              .pieces = kv.kept() * kv.kv_heads,
              .piece = int32_t(kv.head_bytes)};
  }
  apart_ = false;  // the next product is: its blocks come while those before attention leave, and must spread evenly
  Tensor out = pool_->make(q.rows(), a.heads * a.values());
  AttendWorkspace workspace;
  const size_t bytes = attend_partials(q.rows(), a.heads, a.values());
  const std::shared_ptr<Buffer> partials = bytes > 0 ? pool_->take(bytes) : nullptr;
  if (bytes > 0) {
    workspace.partials = reinterpret_cast<float*>(address(*partials));
    workspace.arrived = reinterpret_cast<uint32_t*>(attend_counters_.at_least(attend_counters(a.heads)));
  }
  const AttendArgs args = {.kv = kv,
                           .q = data(q),
                           .out = data(out),
                           .heads = a.heads,
                           .window = a.window,
                           .scale = a.scale,
                           .soft_cap = a.soft_cap,
                           .sinks = a.sinks ? data(a.sinks) : nullptr,
                           .exact = !fast_};
  beside_ = has_attend_mma(args) ? Beside::attend_mma : Beside::any;
  if (const float* const values = v ? data(v) : nullptr; fills_pages(q, k, v, a)) {
    const WaitingRotation waiting = *std::exchange(rotation_, {});
    settle_norm();
    if (waiting.from_q.buffer() != waiting.q.buffer() && values != nullptr && batch_.alone && has_attend_mma(args) &&
        is_common(waiting.q_heads, waiting.k_heads, a.head_dim, waiting.rope)) {
      rotate_and_attend(args, {.q = waiting.q_heads, .k = waiting.k_heads, .v = values, .rope = waiting.rope}, batch_,
                        workspace, stream());
      return out;
    }
    norm_rope_append(waiting.q_heads, waiting.k_heads, values, waiting.rope, kv, batch_, stream());
  } else {
    settle();
    if (k) append_kv(kv, data(k), values, batch_, stream());
  }
  cuda::attend(args, batch_, workspace, stream());
  return out;
}

bool CudaOps::fills_pages(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& a) const {
  if (!rotation_ || !k || rotation_->head_dim != a.head_dim) return false;
  if (!same(rotation_->q, q) || !same(rotation_->k, k)) return false;
  return !v || (v.buffer() != rotation_->q.buffer() && v.buffer() != rotation_->k.buffer());
}

}  // namespace bumblebee::cuda
