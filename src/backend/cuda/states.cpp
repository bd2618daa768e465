// Memory is taken from the card in chunks, since each allocation may wait for the whole card. States are never given
// back alone: their numbers serve other sequences.
#include "backend/cuda/states.h"

#include <algorithm>

#include "backend/cuda/kernels/recurrent.h"
#include "base/error.h"

namespace bumblebee::cuda {
namespace {

constexpr size_t kStateChunk = size_t{64} << 20;

/// Whole vectors of four floats.
size_t in_fours(size_t floats) { return (floats + 3) / 4 * 4; }

}  // namespace

CudaStates::CudaStates(std::shared_ptr<const Device> device, const KvShape& shape, ByteCounter counter)
    : device_(std::move(device)), resident_(std::move(counter), 0) {
  for (const KvGroup& group : shape.groups) {
    if (group.kind != KvGroup::Kind::state) continue;
    const StateShape& s = group.state;
    if (s.key_dim > kMostKeyDim || s.conv_rows >= kMostTaps) {
      throw Error(ErrorCode::unsupported, "cuda",
                  cat("recurrent layers: expected keys of at most ", kMostKeyDim, " and convolutions of at most ",
                      kMostTaps, " rows, got ", s.key_dim, " and ", s.conv_rows + 1));
    }
    conv_floats_ = in_fours(size_t(s.conv_rows) * size_t(s.conv_cols));
    layer_floats_ = conv_floats_ + size_t(s.heads) * size_t(s.value_dim) * size_t(padded_keys(s.key_dim));
    layers_floats_ = size_t(group.layers) * layer_floats_;
    states_.resize(size_t(shape.states));
  }
}

float* CudaStates::state(int32_t number) {
  float*& at = states_[size_t(number)];
  if (at != nullptr) return at;
  const size_t bytes = layers_floats_ * sizeof(float);
  if (free_.empty()) {
    const size_t left = size_t(std::count(states_.begin(), states_.end(), nullptr));
    const size_t count = std::min(left, std::max<size_t>(kStateChunk / std::max<size_t>(bytes, 1), 1));
    const DeviceBytes& chunk = chunks_.emplace_back(device_, count * bytes);
    for (size_t i = count; i > 0; --i)
      free_.push_back(reinterpret_cast<float*>(chunk.data()) + (i - 1) * layers_floats_);
  }
  at = free_.back();
  free_.pop_back();
  resident_.add(bytes);
  return at;
}

void CudaStates::resolve(const Batch& batch, std::vector<StateView>& views) {
  views.clear();
  if (layers_floats_ == 0) return;
  for (const Segment& s : batch.segments) {
    views.push_back({.from = s.state.from < 0 ? nullptr : state(s.state.from),
                     .to = state(s.state.to),
                     .first = s.first,
                     .rows = s.rows});
  }
}

}  // namespace bumblebee::cuda
