// Binding and running.
#include "train/run_batch.h"

#include <algorithm>

#include "base/error.h"
#include "base/rng.h"
#include "train/hashing.h"

namespace bumblebee::train {
namespace {

Batch to_batch(const TrainBatch& from, int stretch_beyond) {
  Batch batch;
  batch.tokens = from.tokens;
  batch.positions = from.positions;
  batch.slot.assign(from.tokens.size(), -1);
  batch.segments = from.segments;
  for (Segment& segment : batch.segments) {
    segment.first_page = int(batch.pages.size());
    batch.pages.push_back(0);  // every segment has a table, though nothing is cached
    segment.stretched = stretch_beyond > 0 && segment.rows > stretch_beyond;
  }
  return batch;
}

template <class Then>
void run(const TrainDevice& device, LoraParams& params, const TrainBatch& from, const TapeOptions& options,
         const Then& then) {
  device.executor.eagerly(to_batch(from, device.model.dims().stretch_beyond), [&](Stream&, KvStore*) {
    TapePass pass(device.backend, params, from.targets, options);
    const double loss = pass.forward(device.model);
    if (options.learn) pass.backward();
    then(pass, loss);
  });
}

}  // namespace

double run_batch(const TrainDevice& device, LoraParams& params, const TrainBatch& batch, const TapeOptions& options) {
  double sum = 0;
  run(device, params, batch, options, [&](const TapePass&, double loss) { sum = loss; });
  return sum;
}

MeanLoss mean_loss(const TrainDevice& device, LoraParams& params, BatchStream& stream, int64_t batches,
                   const std::function<bool(int64_t done, int64_t total)>& progress) {
  const int64_t all = stream.batches_per_epoch(), total = batches < 0 ? all : std::min(all, batches);
  MeanLoss mean;
  double sum = 0;
  stream.seek({0, 0});
  for (int64_t i = 0; i < total && !mean.cancelled; ++i) {
    const TrainBatch batch = stream.next();
    sum += run_batch(device, params, batch, {.learn = false});
    mean.tokens += batch.scored;
    mean.cancelled = progress && !progress(i + 1, total);
  }
  mean.loss = sum / double(mean.tokens);
  return mean;
}

std::string probe(const TrainDevice& device, LoraParams& params) {
  constexpr int kRows = 32;
  TrainBatch batch;
  for (int i = 0; i < kRows; ++i) {
    const auto words = philox(0, uint64_t(i));
    batch.tokens.push_back(int32_t(words[0] % uint32_t(device.model.dims().vocab)));
    batch.targets.push_back(int32_t(words[1] % uint32_t(device.model.dims().vocab)));
    batch.positions.push_back(i);
  }
  batch.segments = {{.first = 0, .rows = kRows}};
  params.hide(true);
  Blake2b hash(32);
  run(device, params, batch, {.learn = false},
      [&](const TapePass& pass, double) { hash.update(std::as_bytes(pass.losses())); });
  params.hide(false);
  return hex_digest(hash);
}

}  // namespace bumblebee::train
