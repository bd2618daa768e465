// One copy binds a batch; one launch replays a step.
#include "backend/cuda/stream.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "backend/cuda/kernels/transfer.h"
#include "backend/cuda/kv.h"

namespace bumblebee::cuda {
namespace {

/// Elements in page-locked memory, once an event has come.
class CudaPending final : public Pending {
 public:
  CudaPending(std::shared_ptr<const Device> device, std::shared_ptr<PinnedPool> pool, const Tensor& tensor)
      : device_(std::move(device)),
        pool_(std::move(pool)),
        bytes_(pool_->take(tensor.size_bytes())),
        size_(tensor.size_bytes()),
        dtype_(tensor.dtype()) {
    if (size_ > 0) fetch_bytes(bytes_.data(), elements<std::byte>(tensor), size_, device_->compute());
    done_.record(device_->compute());
  }
  ~CudaPending() override {
    // The copy writes to this memory until it is done, whoever still cares.
    try {
      wait();
      pool_->give_back(std::move(bytes_));
    } catch (...) {
    }
  }
  void wait() override {
    device_->use();
    done_.wait();
  }
  std::span<const std::byte> bytes() const override { return bytes_.span(size_); }
  DType dtype() const override { return dtype_; }

 private:
  const std::shared_ptr<const Device> device_;
  const std::shared_ptr<PinnedPool> pool_;
  PinnedBytes bytes_;
  const size_t size_;
  const DType dtype_;
  Event done_;
};

bool wants_graphs() {
  const char* value = std::getenv("BB_CUDA_GRAPHS");
  return value == nullptr || std::string_view(value) != "0";
}

}  // namespace

CudaStream::CudaStream(std::shared_ptr<const Device> device, std::shared_ptr<Pool> pool, bool fast)
    : device_(std::move(device)),
      pool_(std::move(pool)),
      recorded_(std::make_shared<Pool>(device_, true)),
      pinned_(std::make_shared<PinnedPool>(device_)),
      ops_(device_, pool_, fast),
      turns_(device_),
      fast_(fast),
      records_(wants_graphs()) {}

CudaStream::~CudaStream() {
  (void)cudaSetDevice(device_->index());
  (void)cudaStreamSynchronize(device_->compute());
  drop_all();
}

void CudaStream::bind(const Batch& batch, const KvStore* kv, const Tensor& chosen) {
  constexpr int kAny = 1 << 30;
  if (kv != nullptr)
    check(batch, kv->shape().page_size, kv->shape().pages, kv->shape().states);
  else
    check(batch, kAny, kAny);
  device_->use();
  pages_.clear();
  states_.clear();
  // Steps alone change what is in a page or a state.
  if (kv != nullptr) {
    auto& store = const_cast<CudaKv&>(static_cast<const CudaKv&>(*kv));
    store.resolve(batch.pages, pages_);
    store.states().resolve(batch, states_);
  }
  const RegionLayout layout = plan_region(batch);
  if (stagings_.size() < kStagings) stagings_.emplace_back();
  Staging& staging = stagings_[next_staging_++ % kStagings];
  staging.done.wait();
  if (staging.bytes.size() < layout.bytes) staging.bytes = PinnedBytes(2 * layout.bytes);
  fill_region(batch, layout, pages_, states_, staging.bytes.span(layout.bytes));
  if (region_.size() < layout.bytes) {
    constexpr size_t kLeast = size_t{1} << 20;  // so that it seldom grows: recorded steps know its address
    cuda::check(cudaStreamSynchronize(device_->compute()), "bind");
    drop_all();
    region_ = DeviceBytes(device_, std::max(2 * layout.bytes, kLeast));
  }
  const BatchView view = view_region(batch, layout, region_.data(), ops_.slots().view());
  const bool names = chosen && std::any_of(batch.tokens.begin(), batch.tokens.end(), [](int32_t t) { return t < 0; });
  bind_region(region_.data(), staging.bytes.data(), layout.bytes, view, names ? elements<int32_t>(chosen) : nullptr,
              names ? chosen.rows() : 0, device_->compute());
  staging.done.record(device_->compute());
  ops_.bind(batch, view);
}

cudaGraphExec_t CudaStream::record(FunctionRef<StepOutputs()> body, StepOutputs& outputs) {
  const std::lock_guard lock(device_->recording());
  cudaGraph_t graph = nullptr;
  cuda::check(cudaStreamBeginCapture(device_->compute(), cudaStreamCaptureModeThreadLocal), "record a step");
  ops_.use(recorded_);
  try {
    outputs = computed(body);
  } catch (...) {
    ops_.use(pool_);
    (void)cudaStreamEndCapture(device_->compute(), &graph);
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
    (void)cudaGetLastError();
    throw;
  }
  ops_.use(pool_);
  cuda::check(cudaStreamEndCapture(device_->compute(), &graph), "record a step");
  cudaGraphExec_t exec = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
  (void)cudaGraphDestroy(graph);
  cuda::check(status, "record a step");
  return exec;
}

StepOutputs CudaStream::computed(FunctionRef<StepOutputs()> body) {
  try {
    ops_.wait_for_next(true);
    StepOutputs outputs = body();
    ops_.wait_for_next(false);
    return outputs;
  } catch (...) {
    ops_.drop_waiting();
    ops_.wait_for_next(false);
    throw;
  }
}

StepOutputs CudaStream::run(const StepKey& key, FunctionRef<StepOutputs()> body) {
  device_->use();
  const Turns::Turn turn(turns_);
  if (key.program == nullptr) return body();  // it may read what it computes
  const CudaOps::BatchKind kind = ops_.kind();
  const int most = kind.alone && fast_ ? kRecordedAlone : kRecordedRows;
  if (!records_ || key.rows > most || key.logit_rows > most) return computed(body);
  if (slots_version_ != ops_.slots().bounds().version) {
    cuda::check(cudaStreamSynchronize(device_->compute()), "change adapters");
    drop_all();
    slots_version_ = ops_.slots().bounds().version;
  }
  const auto known = std::find_if(programs_.begin(), programs_.end(),
                                  [&](const Recorded& r) { return r.key == key && r.kind == kind; });
  if (known == programs_.end()) {
    // Not recorded at once: most keys of a prompt come once, and what is made lazily must not be made in a recording.
    StepOutputs outputs = computed(body);
    if (programs_.size() == kMostRecorded) {
      cuda::check(cudaStreamSynchronize(device_->compute()), "forget a step");
      drop(std::prev(programs_.end()));
    }
    programs_.push_front({.key = key, .kind = kind, .graph = nullptr, .outputs = {}, .eager = false});
    return outputs;
  }
  programs_.splice(programs_.begin(), programs_, known);
  Recorded& recorded = programs_.front();
  if (recorded.eager) return computed(body);
  if (recorded.graph == nullptr) {
    try {
      recorded.graph = record(body, recorded.outputs);
    } catch (const Error& error) {
      // A recording needs activations of its own, and drivers before 12.3 cannot record kernels that begin early. Where
      // it fails the step runs as it ran before.
      if (error.code() != ErrorCode::out_of_memory && (error.code() != ErrorCode::device || is_lost(device_->index())))
        throw;
      recorded.outputs = {};
      recorded.eager = true;
      return computed(body);
    }
  }
  cuda::check(cudaGraphLaunch(recorded.graph, device_->compute()), "replay a step");
  return copied(recorded.outputs);
}

StepOutputs CudaStream::copied(const StepOutputs& outputs) {
  const auto copy = [&](const Tensor& t) { return t ? ops_.copy(t) : Tensor(); };
  return {.logits = copy(outputs.logits),
          .hidden = copy(outputs.hidden),
          .sampled = {.ids = copy(outputs.sampled.ids),
                      .logprobs = copy(outputs.sampled.logprobs),
                      .top_ids = copy(outputs.sampled.top_ids)}};
}

void CudaStream::drop(std::list<Recorded>::iterator recorded) {
  if (recorded->graph != nullptr) (void)cudaGraphExecDestroy(recorded->graph);
  programs_.erase(recorded);
}

void CudaStream::drop_all() {
  while (!programs_.empty()) drop(programs_.begin());
  recorded_->release_free();
}

void CudaStream::forget(const void* program) {
  (void)cudaSetDevice(device_->index());
  (void)cudaStreamSynchronize(device_->compute());
  for (auto at = programs_.begin(); at != programs_.end();) {
    const auto recorded = at++;
    if (recorded->key.program == program) drop(recorded);
  }
  if (programs_.empty()) recorded_->release_free();
}

std::unique_ptr<Pending> CudaStream::fetch(const Tensor& tensor) {
  device_->use();
  return std::make_unique<CudaPending>(device_, pinned_, tensor);
}

}  // namespace bumblebee::cuda
