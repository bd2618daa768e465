// A batch of training through a pass: the steps that learning, validating and probing share.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "backend/backend.h"
#include "exec/executor.h"
#include "nn/model.h"
#include "train/batch_stream.h"
#include "train/tape_pass.h"

namespace bumblebee::train {

/// What computes. Others may use the model between batches: whatever runs on the device goes through the executor.
struct TrainDevice {
  exec::Executor& executor;
  Backend& backend;  // of the executor: memory outside of steps
  const nn::Model& model;

  /// Operations that belong to no batch: updates, copies of parameters.
  template <class Body>
  void run(const Body& body) const {
    executor.eagerly(Batch(), [&](Stream&, KvStore*) { body(); });
  }
};

/// Sum of the losses of the scored rows. With `options.learn`, gradients are added to the parameters'.
double run_batch(const TrainDevice& device, LoraParams& params, const TrainBatch& batch, const TapeOptions& options);

struct MeanLoss {
  double loss = 0;  // nats per scored token; not a number without one
  int64_t tokens = 0;
  bool cancelled = false;
};

/// Over the first `batches` of the stream's first epoch (-1: all). `progress` may be empty; false cancels.
MeanLoss mean_loss(const TrainDevice& device, LoraParams& params, BatchStream& stream, int64_t batches,
                   const std::function<bool(int64_t done, int64_t total)>& progress);

/// Hash of what the base alone computes for some fixed tokens: the bits that its weights in memory give.
std::string probe(const TrainDevice& device, LoraParams& params);

}  // namespace bumblebee::train
