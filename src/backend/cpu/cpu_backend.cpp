// Ties pool, kernels and operations together.
#include "backend/cpu/cpu_backend.h"

#include <algorithm>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/dispatch.h"
#include "backend/cpu/grad_ops.h"
#include "backend/cpu/lora.h"
#include "quant/affine.h"

namespace bumblebee {
namespace cpu {
namespace {

Element element_of(DType dtype) {
  BB_CHECK(is_float(dtype), to_string(dtype));
  return dtype == DType::f32 ? Element::f32 : dtype == DType::f16 ? Element::f16 : Element::bf16;
}

const uint8_t* first_byte(std::span<const std::byte> span) { return reinterpret_cast<const uint8_t*>(span.data()); }

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const BackendOptions& options)
      : threads_(options.threads, options.pin),
        memory_(std::make_shared<Pool>()),
        kernels_(choose_kernels(options.instruction_set)),
        fast_(options.fast),
        ops_(kernels_, threads_, memory_, options.fast) {}

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
  Weight prepare(const HostWeight& weight) override {
    auto packed = std::make_shared<CpuWeight>();
    packed->host = weight;
    place(weight, ops_.partition(), threads_);
    const Format& f = weight.format;
    packed->rows = {.codes = first_byte(weight.codes),
                    .scales = first_byte(weight.scales),
                    .biases = first_byte(weight.biases),
                    .row_bytes = row_bytes(f, weight.in),
                    .in = weight.in,
                    .bits = f.kind == Format::Kind::dense ? 0 : f.bits,
                    .group = f.group,
                    .element = element_of(f.scale),
                    .bias_element = element_of(f.bias)};
    return {f, weight.out, weight.in, std::move(packed)};
  }
  Tensor prepare_vector(const HostWeight& vector) override {
    Tensor t = memory_->make(1, vector.in);
    decode_row<float>(vector, 0, std::span(data(t), size_t(vector.in)));
    return t;
  }
  Factors prepare_factors(const HostFactors& factors, FactorUse use) override {
    return pack_factors(kernels_, factors, use, fast_);
  }
  Tensor dora_factor(const Weight& weight, const HostFactors& factors, float scale, std::span<const float> magnitude,
                     bool by_column) override {
    Tensor factor = memory_->make(1, int(magnitude.size()));
    const WeightRows& rows = static_cast<const CpuWeight&>(*weight.packed).rows;
    cpu::dora_factor(kernels_, rows, weight.out, factors, scale, magnitude, by_column, data(factor));
    return factor;
  }
  std::unique_ptr<KvStore> make_kv(const KvShape& shape) override {
    return std::make_unique<CpuKv>(shape, threads_.plan().nodes);
  }
  void bind(const Batch& batch, const KvStore* kv) override {
    constexpr int kAny = 1 << 30;
    check(batch, kv != nullptr ? kv->shape().page_size : kAny, kv != nullptr ? kv->shape().pages : kAny, kAny);
    ops_.bind(batch);
  }
  void run(const StepKey&, FunctionRef<void()> body) override { body(); }
  Ops& ops() override { return ops_; }
  GradOps* grad_ops() override { return &grad_ops_; }

 private:
  ThreadPool threads_;
  std::shared_ptr<Pool> memory_;
  const Kernels& kernels_;
  const bool fast_;
  CpuOps ops_;
  CpuGradOps grad_ops_{ops_};
};

std::vector<std::string> set_names() {
  std::vector<std::string> names;
  for (const Kernels* set : available_kernels()) names.emplace_back(set->name);
  return names;
}

}  // namespace
}  // namespace cpu

BackendEntry cpu_backend_entry() {
  return {.name = "cpu",
          .absent = [] { return std::string(); },
          .lacks = [](const Format&) { return std::string(); },
          .describe = cpu::processor_name,
          .instruction_sets = cpu::set_names,
          .create = [](const BackendOptions& options) -> std::unique_ptr<Backend> {
            return std::make_unique<cpu::CpuBackend>(options);
          }};
}

}  // namespace bumblebee
