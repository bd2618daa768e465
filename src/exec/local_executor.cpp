// Bind, run, fetch: once.
#include "exec/local_executor.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/error.h"
#include "nn/infer_pass.h"

namespace bumblebee::exec {
namespace {

int64_t pages_for(int64_t tokens) { return (tokens + kPageSize - 1) / kPageSize; }

/// Pages for what is asked, or as many as fit.
int page_count(const CacheLimits& limits, uint64_t bytes, uint64_t page, uint64_t states) {
  constexpr int64_t kMost = int64_t{1} << 24;
  const uint64_t all = bytes;
  bytes -= std::min(bytes, states);
  const int64_t one = pages_for(limits.sequence_length), pages = limits.sequences * one + limits.spare_pages;
  page = std::max<uint64_t>(page, 1);  // of a model without attention
  const int64_t fit = int64_t(std::min<uint64_t>(bytes / page, uint64_t(kMost)));
  if (fit < one) {
    throw Error(ErrorCode::out_of_memory, "cache",
                cat("keys and values of one sequence of ", limits.sequence_length, " tokens: expected at most ", all,
                    " bytes, got ", uint64_t(one) * page + states,
                    "; shorten the sequence length, allow more bytes, or store keys and values as int8"));
  }
  return int(limits.fill ? fit : std::min(pages, fit));
}

}  // namespace

uint64_t default_cache_bytes(DeviceModel& device) {
  const MemoryUse use = device.backend().memory();
  return (use.free - std::min(use.free, use.mapped)) / 2;
}

uint64_t sequence_bytes(const nn::ModelDims& dims, DType dtype, int64_t tokens) {
  const KvShape shape = dims.kv_shape(kPageSize, 1, dtype);
  return uint64_t(pages_for(tokens)) * page_bytes(shape) + state_bytes(shape);
}

int state_count(const nn::ModelDims& dims, int sequences, uint64_t bytes) {
  const uint64_t state = state_bytes(dims.kv_shape(kPageSize, 1, DType::f32));
  if (state == 0) return 0;
  const uint64_t own = std::clamp<uint64_t>(bytes / 2 / state, 1, uint64_t(sequences));
  return int(own + std::min<uint64_t>(bytes / 4 / state, kMostCheckpoints));
}

LocalExecutor::LocalExecutor(std::shared_ptr<DeviceModel> device, const CacheLimits& limits)
    : device_(std::move(device)) {
  DeviceModel::refuse_callbacks();  // before there is anything to be ended, which needs a turn as well
  if (limits.sequence_length == 0) return;
  const nn::ModelDims& dims = device_->model().dims();
  KvShape shape = dims.kv_shape(kPageSize, 1, limits.dtype);
  const uint64_t bytes = limits.bytes > 0 ? limits.bytes : default_cache_bytes(*device_);
  page_bytes_ = page_bytes(shape);
  state_bytes_ = state_bytes(shape);
  states_ = state_count(dims, limits.sequences, bytes);
  pages_ = page_count(limits, bytes, page_bytes_, uint64_t(states_) * state_bytes_);
  const DeviceModel::Turn turn(*device_);
  device_->backend().expect({.rows = 0, .logit_rows = 0, .sequences = limits.sequences, .pages = pages_});
  shape.pages = pages_;
  shape.states = states_;
  kv_ = device_->backend().make_kv(shape);
}

LocalExecutor::~LocalExecutor() {
  const DeviceModel::Turn turn(*device_);
  device_->backend().stream().forget(this);
  for (InFlight& step : steps_) step = {};
  kv_.reset();
}

template <class T>
std::span<const T> LocalExecutor::Fetched::wait(size_t count) {
  if (pending == nullptr) return {};
  pending->wait();
  const std::span<const std::byte> bytes = pending->bytes();
  BB_CHECK(bytes.size() >= count * sizeof(T) && size_of(pending->dtype()) == sizeof(T), "bytes ", bytes.size());
  return {reinterpret_cast<const T*>(bytes.data()), count};
}

std::span<const float> LocalExecutor::Fetched::wait_floats(size_t count) {
  if (pending == nullptr) return {};
  if (pending->dtype() == DType::f32) return wait<float>(count);  // as it is: no copy where memory is shared
  pending->wait();
  converted.resize(pending->bytes().size() / size_t(size_of(pending->dtype())));
  read_floats(*pending, converted);
  return std::span<const float>(converted).first(count);
}

Ticket LocalExecutor::launch(const Step& step) {
  BB_CHECK(kv_ != nullptr, "this executor has no cache");
  InFlight& flight = steps_[(last_ + 1) % steps_.size()];
  const DeviceModel::Turn turn(*device_);
  Stream& stream = device_->backend().stream();
  flight = {};
  flight.ticket = last_ + 1;
  flight.logit_rows = step.batch.logit_rows.size();
  flight.rows = size_t(step.batch.rows());
  flight.tops = std::max(step.batch.most_logprobs(), 0);
  kv_->copy_pages(step.copies);

  const bool alone = step.batch.rows_are_alone();
  const int rows = stream.bucket(step.batch.rows(), alone);
  const int logit_rows = step.batch.logit_rows.empty() ? 0 : stream.bucket(int(step.batch.logit_rows.size()), alone);
  Batch padded;
  const Batch* batch = &step.batch;
  if (rows != step.batch.rows() || size_t(logit_rows) != step.batch.logit_rows.size()) {
    padded = step.batch;
    padded.pad(rows, logit_rows);
    batch = &padded;
  }
  const LoraShape& lora = device_->slots_.shape(batch->slot);
  stream.bind(*batch, kv_.get(), steps_[last_ % steps_.size()].outputs.sampled.ids);
  const bool samples = !step.batch.sample.empty();
  const StepKey key{.program = this,
                    .rows = rows,
                    .logit_rows = logit_rows,
                    .adapters = lora.id,
                    .logits = step.wants.logits,
                    .hidden = step.wants.hidden,
                    .sample = samples,
                    .logprobs = step.batch.most_logprobs()};
  flight.outputs = stream.run(key, [&] {
    nn::InferPass pass(stream.ops(), *kv_, {.lora = &lora, .logits = logit_rows > 0, .hidden = step.wants.hidden});
    StepOutputs outputs;
    outputs.logits = device_->model().forward(pass);
    outputs.hidden = pass.hidden();
    if (samples) {
      const auto begin = std::chrono::steady_clock::now();
      outputs.sampled = stream.ops().sample(outputs.logits);
      flight.sample_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    if (!step.wants.logits) outputs.logits = {};  // a device that keeps its outputs would copy them
    return outputs;
  });
  const Sampled& sampled = flight.outputs.sampled;
  if (sampled.ids) flight.ids.pending = stream.fetch(sampled.ids);
  if (sampled.logprobs) flight.logprobs.pending = stream.fetch(sampled.logprobs);
  if (sampled.top_ids) flight.top_ids.pending = stream.fetch(sampled.top_ids);
  if (step.wants.logits && logit_rows > 0) flight.logits.pending = stream.fetch(flight.outputs.logits);
  if (step.wants.hidden) flight.hidden.pending = stream.fetch(flight.outputs.hidden);
  return ++last_;
}

const StepResult& LocalExecutor::wait(Ticket ticket) {
  InFlight& flight = steps_[ticket % steps_.size()];
  BB_CHECK(ticket > 0 && flight.ticket == ticket, "ticket ", ticket, " of ", last_);
  if (flight.done) return flight.result;
  const nn::ModelDims& dims = device_->model().dims();
  const size_t logit_rows = flight.logit_rows, tops = size_t(flight.tops);
  flight.result = {.ids = flight.ids.wait<int32_t>(logit_rows),
                   .logprobs = flight.logprobs.wait<double>(logit_rows * (1 + tops)),
                   .top_ids = flight.top_ids.wait<int32_t>(logit_rows * tops),
                   .tops = flight.tops,
                   .logits = flight.logits.wait_floats(logit_rows * size_t(dims.vocab)),
                   .hidden = flight.hidden.wait_floats(flight.rows * size_t(dims.d_model)),
                   .sample_seconds = flight.sample_seconds};
  flight.done = true;
  return flight.result;
}

void LocalExecutor::release_pages(std::span<const int32_t> pages) {
  const DeviceModel::Turn turn(*device_);
  kv_->release_pages(pages);
}

MemoryReport LocalExecutor::memory() const {
  return {.device = device_->backend().memory(),
          .page_bytes = page_bytes_,
          .pages = pages_,
          .state_bytes = state_bytes_,
          .states = states_};
}

void LocalExecutor::in_parallel(int count, FunctionRef<void(int)> body) {
  const DeviceModel::Turn turn(*device_);
  device_->backend().in_parallel(count, [&](int i) {
    DeviceModel::called_back_ = true;
    body(i);
    DeviceModel::called_back_ = false;
  });
}

void LocalExecutor::eagerly(const Batch& batch, FunctionRef<void(Stream& stream, KvStore* kv)> body) {
  const DeviceModel::Turn turn(*device_);
  Stream& stream = device_->backend().stream();
  stream.bind(batch, kv_.get());
  stream.run({.program = nullptr, .rows = batch.rows(), .logit_rows = int(batch.logit_rows.size())}, [&] {
    body(stream, kv_.get());
    return StepOutputs();
  });
}

}  // namespace bumblebee::exec
