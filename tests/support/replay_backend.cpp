// The stream that records and plays; everything else is the reference's.
#include "tests/support/replay_backend.h"

#include <array>
#include <atomic>
#include <bit>
#include <map>
#include <mutex>

#include "backend/registry.h"
#include "base/error.h"
#include "tests/support/replay_ops.h"

namespace bumblebee::testing_support {
namespace {

std::atomic<int> recorded_steps{0}, played_steps{0};

/// The copy begins when it is asked for, in the order of the steps; nothing is there before it was awaited.
class LatePending final : public Pending {
 public:
  LatePending(Stream& inner, const Tensor& tensor) : dtype_(tensor.dtype()) {
    const std::unique_ptr<Pending> fetched = inner.fetch(tensor);
    fetched->wait();
    copy_.assign(fetched->bytes().begin(), fetched->bytes().end());
  }
  void wait() override { awaited_ = true; }
  std::span<const std::byte> bytes() const override {
    BB_CHECK(awaited_, "read before it was awaited");
    return copy_;
  }
  DType dtype() const override { return dtype_; }

 private:
  DType dtype_;
  std::vector<std::byte> copy_;
  bool awaited_ = false;
};

class ReplayStream final : public Stream {
 public:
  explicit ReplayStream(Stream& inner) : inner_(inner), ops_(inner.ops()) {}

  void bind(const Batch& batch, const KvStore* kv, const Tensor& chosen) override {
    BB_CHECK(!running_);
    inner_.bind(batch, kv, chosen);
    ops_.bind(batch.rows(), int(batch.logit_rows.size()), batch.most_logprobs());
  }

  StepOutputs run(const StepKey& key, FunctionRef<StepOutputs()> body) override {
    BB_CHECK(!running_, "a step inside a step");
    poison_outputs();
    StepOutputs outputs;
    try {
      running_ = true;
      eager_ = key.program == nullptr;
      outputs = eager_ ? body() : play(tape_of(key, body));
    } catch (...) {
      ops_.record(nullptr);
      running_ = eager_ = false;
      throw;
    }
    if (eager_) ops_.end_eager(outputs);
    running_ = eager_ = false;
    last_[next_] = outputs;
    next_ = 1 - next_;
    return outputs;
  }
  void forget(const void* program) override {
    std::erase_if(tapes_, [program](const auto& entry) { return entry.first.program == program; });
  }
  Ops& ops() override { return ops_; }
  GradOps* grad_ops() override { return inner_.grad_ops(); }
  std::unique_ptr<Pending> fetch(const Tensor& tensor) override {
    BB_CHECK(!running_ || eager_, "a repeatable step reads what it computes");
    BB_CHECK(recorded(tensor) == nullptr, "a tensor of a recorded step is used after it");
    return std::make_unique<LatePending>(inner_, tensor);
  }
  bool asynchronous() const override { return true; }
  /// Powers of two: few sizes, and padding in most steps.
  int bucket(int rows, bool) const override { return int(std::bit_ceil(unsigned(rows))); }

  bool may_read() const { return !running_ || eager_; }

 private:
  const Tape& tape_of(const StepKey& key, FunctionRef<StepOutputs()> body) {
    const auto found = tapes_.find(key);
    if (found != tapes_.end()) return found->second;
    Tape tape;
    ops_.record(&tape);
    tape.outputs = body();
    ops_.record(nullptr);
    ++recorded_steps;
    return tapes_.emplace(key, std::move(tape)).first->second;
  }

  StepOutputs play(const Tape& tape) {
    ++played_steps;
    Values values(size_t(tape.values));
    for (const auto& operation : tape.operations) operation(values);
    const StepOutputs& o = tape.outputs;
    return {.logits = ReplayOps::resolve(values, o.logits),
            .hidden = ReplayOps::resolve(values, o.hidden),
            .sampled = {.ids = ReplayOps::resolve(values, o.sampled.ids),
                        .logprobs = ReplayOps::resolve(values, o.sampled.logprobs),
                        .top_ids = ReplayOps::resolve(values, o.sampled.top_ids)}};
  }

  /// Those of the second last step: nobody may look at them any more, but whoever holds the ids.
  void poison_outputs() {
    StepOutputs& o = last_[next_];
    for (const Tensor* t : {&o.logits, &o.hidden, &o.sampled.logprobs, &o.sampled.top_ids}) {
      if (*t) poison(*t);
    }
    o = {};
  }

  Stream& inner_;
  ReplayOps ops_;
  std::map<StepKey, Tape> tapes_;
  std::array<StepOutputs, 2> last_;  // of the last two steps
  size_t next_ = 0;
  bool running_ = false, eager_ = false;
};

class ReplayBackend final : public Backend {
 public:
  explicit ReplayBackend(std::unique_ptr<Backend> inner) : inner_(std::move(inner)), stream_(inner_->stream()) {}

  std::string_view name() const override { return "replay"; }
  bool has(Operation operation) const override { return inner_->has(operation); }
  Tensor make(int rows, int cols) override { return inner_->make(rows, cols); }
  Tensor upload(std::span<const float> values, int rows, int cols) override {
    return inner_->upload(values, rows, cols);
  }
  void read(const Tensor& tensor, std::span<float> values) override {
    BB_CHECK(stream_.may_read(), "a repeatable step reads what it computes");
    BB_CHECK(recorded(tensor) == nullptr, "a tensor of a recorded step is used after it");
    inner_->read(tensor, values);
  }
  void read_bytes(const Tensor& tensor, std::span<std::byte> out) override {
    BB_CHECK(stream_.may_read() && recorded(tensor) == nullptr);
    inner_->read_bytes(tensor, out);
  }
  Weight pack(const HostWeight& weight) override { return inner_->pack(weight); }
  Weight stack(std::span<const Weight> experts) override { return inner_->stack(experts); }
  Tensor pack_vector(const HostWeight& vector) override { return inner_->pack_vector(vector); }
  LowRankWeights pack_factors(const HostLowRank& factors, LowRankUse use) override {
    return inner_->pack_factors(factors, use);
  }
  Tensor dora_scale(const Weight& weight, const HostLowRank& factors, float scale, std::span<const float> magnitude,
                    bool by_column) override {
    return inner_->dora_scale(weight, factors, scale, magnitude, by_column);
  }
  std::unique_ptr<KvStore> make_kv(const KvShape& shape) override { return inner_->make_kv(shape); }
  void set_slot(int32_t slot, std::span<const LoraEntry* const> by_site) override { inner_->set_slot(slot, by_site); }
  MemoryUse memory() const override { return inner_->memory(); }
  Stream& stream() override { return stream_; }

 private:
  std::unique_ptr<Backend> inner_;
  ReplayStream stream_;
};

}  // namespace

void register_replay_backend() {
  static std::once_flag once;
  std::call_once(once, [] {
    BackendEntry entry;
    for (const BackendEntry& other : backends()) {
      if (other.name == "ref") entry = other;
    }
    entry.name = "replay";
    entry.describe = [](int) { return std::string("the reference, replayed from tapes"); };
    entry.create = [](const BackendOptions& options) -> std::unique_ptr<Backend> {
      return std::make_unique<ReplayBackend>(require_device("ref", {}).entry->create(options));
    };
    register_backend(entry);
  });
}

ReplayCounts replay_counts() { return {.recorded = recorded_steps, .played = played_steps}; }

}  // namespace bumblebee::testing_support
