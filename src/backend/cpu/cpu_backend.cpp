// Ties pool, kernels and operations together.
#include "backend/cpu/cpu_backend.h"

#include <algorithm>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/dispatch.h"
#include "backend/cpu/grad_ops.h"
#include "backend/cpu/lora.h"
#include "base/bandwidth.h"
#include "base/host_memory.h"
#include "quant/elements.h"

namespace bumblebee {
namespace cpu {
namespace {

Element element_of(DType dtype) {
  if (dtype == DType::f8_e8m0) return Element::e8m0;
  if (dtype == DType::f8_e4m3) return Element::e4m3;
  BB_CHECK(is_float(dtype), to_string(dtype));
  return dtype == DType::f32 ? Element::f32 : dtype == DType::f16 ? Element::f16 : Element::bf16;
}

const uint8_t* first_byte(std::span<const std::byte> span) { return reinterpret_cast<const uint8_t*>(span.data()); }

/// The memory of an activation is the host's: nothing is copied, and the tensor is kept for as long as it is looked at.
class HostPending final : public Pending {
 public:
  explicit HostPending(Tensor tensor) : tensor_(std::move(tensor)) {}
  void wait() override {}
  std::span<const std::byte> bytes() const override { return {cpu::bytes(tensor_), tensor_.size_bytes()}; }
  DType dtype() const override { return tensor_.dtype(); }

 private:
  Tensor tensor_;
};

/// Steps are computed when they are asked for, so that nothing is recorded and nothing is awaited.
class CpuStream final : public Stream {
 public:
  CpuStream(const Kernels& kernels, ThreadPool& threads, std::shared_ptr<Pool> memory, bool fast)
      : ops_(kernels, threads, std::move(memory), fast) {}

  void bind(const Batch& batch, const KvStore* kv, const Tensor& chosen) override {
    constexpr int kAny = 1 << 30;
    check(batch, kv != nullptr ? kv->shape().page_size : kAny, kv != nullptr ? kv->shape().pages : kAny,
          kv != nullptr ? kv->shape().states : 0);
    ops_.bind(batch, chosen);
  }
  StepOutputs run(const StepKey&, FunctionRef<StepOutputs()> body) override { return body(); }
  CpuOps& ops() override { return ops_; }
  GradOps* grad_ops() override { return &grad_ops_; }
  std::unique_ptr<Pending> fetch(const Tensor& tensor) override { return std::make_unique<HostPending>(tensor); }

 private:
  CpuOps ops_;
  CpuGradOps grad_ops_{ops_};
};

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const BackendOptions& options)
      : threads_(options.threads, options.pin),
        memory_(std::make_shared<Pool>()),
        kernels_(choose_kernels(options.instruction_set)),
        fast_(options.fast),
        stream_(kernels_, threads_, memory_, options.fast) {}

  std::string_view name() const override { return "cpu"; }
  Tensor make(int rows, int cols) override { return memory_->make(rows, cols); }
  void keep_memory(size_t bytes) override { memory_->limit(bytes == 0 ? Pool::kDefaultLimit : bytes); }
  Tensor upload(std::span<const float> values, int rows, int cols) override {
    BB_CHECK(values.size() == size_t(rows) * size_t(cols));
    Tensor t = memory_->make(rows, cols);
    std::copy(values.begin(), values.end(), data(t));
    return t;
  }
  void read(const Tensor& t, std::span<float> values) override {
    BB_CHECK(values.size() == size_t(t.rows()) * size_t(t.cols()));
    std::copy_n(data(t), values.size(), values.begin());
  }
  void read_bytes(const Tensor& t, std::span<std::byte> out) override {
    BB_CHECK(out.size() == t.size_bytes());
    std::copy_n(cpu::bytes(t), out.size(), out.begin());
  }
  Weight pack(const HostWeight& given) override {
    require_known("cpu", given);
    const HostWeight weight = contiguous(given);
    auto packed = std::make_shared<CpuWeight>();
    packed->host = weight;
    packed->counted = CountedBytes(weight_bytes_, stored_bytes(weight));
    if (!loaded_) place(weight, stream_.ops().partition(), threads_);  // those of adapters come while others compute
    const Format& f = weight.format;
    packed->rows = {.codes = first_byte(weight.codes),
                    .scales = first_byte(weight.scales),
                    .biases = first_byte(weight.biases),
                    .row_bytes = row_bytes(f, weight.in),
                    .in = weight.in,
                    .bits = f.kind == Format::Kind::dense ? 0 : f.bits,
                    .group = f.group,
                    .floats = f.codes != Format::Codes::uint,
                    .element = element_of(f.scale),
                    .bias_element = element_of(f.bias),
                    .factor = factor_of(weight)};
    return {f, weight.out, weight.in, std::move(packed)};
  }
  Weight stack(std::span<const Weight> experts) override {
    auto packed = std::make_shared<CpuStack>();
    packed->experts.assign(experts.begin(), experts.end());
    const Weight& first = experts.front();
    return {first.format, first.out, first.in, std::move(packed), int(experts.size())};
  }
  void finish_packing() override { loaded_ = true; }
  Tensor pack_vector(const HostWeight& vector) override {
    Tensor t = memory_->make(1, vector.in);
    decode_row<float>(vector, 0, std::span(data(t), size_t(vector.in)));
    return t;
  }
  LowRankWeights pack_factors(const HostLowRank& factors, LowRankUse use) override {
    return cpu::pack_factors(kernels_, factors, use, fast_, adapter_bytes_);
  }
  Tensor dora_scale(const Weight& weight, const HostLowRank& factors, float scale, std::span<const float> magnitude,
                    bool by_column) override {
    Tensor factor = memory_->make(1, int(magnitude.size()));
    const WeightRows& rows = static_cast<const CpuWeight&>(*weight.packed).rows;
    cpu::dora_scale(kernels_, rows, weight.out, factors, scale, magnitude, by_column, data(factor));
    return factor;
  }
  std::unique_ptr<KvStore> make_kv(const KvShape& shape) override {
    return std::make_unique<CpuKv>(shape, threads_.plan().nodes, kv_bytes_);
  }
  void set_slot(int32_t slot, std::span<const LoraEntry* const> by_site) override {
    stream_.ops().slots().set(slot, by_site);
  }
  void in_parallel(int count, FunctionRef<void(int)> body) override {
    threads_.for_each(count, [&](int64_t i, int) { body(int(i)); });
  }
  MemoryUse memory() const override {
    const HostMemory host = host_memory();
    return {.total = host.total,
            .free = host.free,
            .weights = weight_bytes_->load(std::memory_order_relaxed),
            .mapped = weight_bytes_->load(std::memory_order_relaxed),
            .adapters = adapter_bytes_->load(std::memory_order_relaxed),
            .kv = kv_bytes_->load(std::memory_order_relaxed),
            .steps = memory_->used_bytes() + memory_->cached_bytes()};
  }
  Stream& stream() override { return stream_; }

 private:
  ThreadPool threads_;
  std::shared_ptr<Pool> memory_;
  const Kernels& kernels_;
  const bool fast_;
  bool loaded_ = false;
  const ByteCounter weight_bytes_ = make_byte_counter(), adapter_bytes_ = make_byte_counter(),
                    kv_bytes_ = make_byte_counter();
  CpuStream stream_;
};

}  // namespace
}  // namespace cpu

BackendEntry cpu_backend_entry() {
  return {
      .name = "cpu",
      .count = [] { return 1; },
      .absent = [](int) { return std::string(); },
      .lacks = [](int,
                  const Format& format) { return known_format(format) ? "" : cat("matmul(", to_string(format), ")"); },
      .describe = [](int) { return cpu::processor_name(); },
      .memory_bytes = [](int) { return host_memory().total; },
      .free_bytes = [](int) { return host_memory().free; },
      .bandwidth = [](int, int threads) { return read_bandwidth(threads); },
      .instruction_sets = [](int) { return cpu::present_sets(); },
      .create = [](const BackendOptions& options) -> std::unique_ptr<Backend> {
        return std::make_unique<cpu::CpuBackend>(options);
      }};
}

}  // namespace bumblebee
