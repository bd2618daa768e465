// Ties device, memory, packing and steps together, and answers for the registry.
#include "backend/cuda/cuda_backend.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "backend/cuda/kernels/card.h"
#include "backend/cuda/kernels/expert_plan.h"
#include "backend/cuda/kernels/lora.h"
#include "backend/cuda/kernels/matmul_wide.h"
#include "backend/cuda/kv.h"
#include "backend/cuda/stream.h"
#include "backend/cuda/weights.h"
#include "quant/elements.h"

namespace bumblebee {
namespace cuda {
namespace {

/// Of what only some models and adapters need.
constexpr Operation kLacking[] = {Operation::lora_heads};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const BackendOptions& options)
      : device_(std::make_shared<const Device>(options.device)),
        pool_(std::make_shared<Pool>(device_)),
        uploader_(device_),
        fast_(options.fast),
        stream_(device_, pool_, options.fast) {}
  ~CudaBackend() override {
    (void)cudaSetDevice(device_->index());
    (void)cudaStreamSynchronize(device_->upload());
    (void)cudaStreamSynchronize(device_->compute());
  }

  std::string_view name() const override { return "cuda"; }
  bool has(Operation operation) const override {
    return std::find(std::begin(kLacking), std::end(kLacking), operation) == std::end(kLacking);
  }
  Tensor make(int rows, int cols) override { return pool_->make(rows, cols); }
  void keep_memory(size_t bytes) override { pool_->limit(bytes == 0 ? Pool::kDefaultLimit : bytes); }

  Tensor upload(std::span<const float> values, int rows, int cols) override {
    BB_CHECK(values.size() == size_t(rows) * size_t(cols));
    Tensor t = pool_->make(rows, cols);
    if (values.empty()) return t;
    device_->use();
    const std::lock_guard lock(device_->recording());
    check(cudaMemcpyAsync(data(t), values.data(), values.size_bytes(), cudaMemcpyHostToDevice, device_->compute()),
          "upload");
    check(cudaStreamSynchronize(device_->compute()), "upload");
    return t;
  }
  void read(const Tensor& t, std::span<float> values) override {
    BB_CHECK(values.size() == size_t(t.rows()) * size_t(t.cols()) && t.dtype() == DType::f32);
    read_bytes(t, std::as_writable_bytes(values));
  }
  void read_bytes(const Tensor& t, std::span<std::byte> out) override {
    BB_CHECK(out.size() == t.size_bytes());
    if (out.empty()) return;
    device_->use();
    const std::lock_guard lock(device_->recording());
    check(cudaMemcpyAsync(out.data(), elements<std::byte>(t), out.size(), cudaMemcpyDeviceToHost, device_->compute()),
          "read");
    check(cudaStreamSynchronize(device_->compute()), "read");
  }

  Weight pack(const HostWeight& weight) override { return upload_weight(device_, uploader_, weight, weight_bytes_); }
  Weight stack(std::span<const Weight> experts) override {
    if (experts.size() > kMostExperts) {
      throw Error(ErrorCode::unsupported, name(),
                  cat("experts: expected at most ", kMostExperts, ", got ", experts.size()));
    }
    return stack_weights(device_, experts, weight_bytes_);
  }
  Tensor pack_vector(const HostWeight& vector) override {
    std::vector<float> values(size_t(vector.in));
    decode_row<float>(vector, 0, values);
    return upload(values, 1, vector.in);
  }
  void finish_packing() override { uploader_.finish(); }
  LowRankWeights pack_factors(const HostLowRank& factors, LowRankUse use) override {
    return upload_factors(device_, uploader_, factors, use, fast_, adapter_bytes_);
  }
  Tensor dora_scale(const Weight& weight, const HostLowRank& factors, float scale, std::span<const float> magnitude,
                    bool by_column) override {
    BB_CHECK(magnitude.size() == size_t(by_column ? weight.in : weight.out));
    const Tensor a = upload(factors.a, factors.rank, factors.in), b = upload(factors.b, factors.out, factors.rank);
    const Tensor squares = pool_->make(1, int(magnitude.size()), DType::f64);
    {
      device_->use();
      const std::lock_guard lock(device_->recording());
      weight_squares(view_of(weight), data(a), data(b), factors.rank, scale, by_column, elements<double>(squares),
                     device_->compute());
    }
    std::vector<double> sums(magnitude.size());
    read_bytes(squares, std::as_writable_bytes(std::span(sums)));
    std::vector<float> result;
    for (size_t i = 0; i < sums.size(); ++i) result.push_back(float(double(magnitude[i]) / std::sqrt(sums[i])));
    return upload(result, 1, int(result.size()));
  }
  std::unique_ptr<KvStore> make_kv(const KvShape& shape) override {
    auto kv = std::make_unique<CudaKv>(device_, shape, kv_bytes_);
    // Pages come when they are first written: what can never fit is refused before somebody waits for it.
    if (const uint64_t free = memory().free; kv->most_bytes() > free) {
      throw Error(ErrorCode::out_of_memory, name(),
                  cat("keys and values: expected at most ", free, " bytes, which are free, got ", kv->most_bytes()));
    }
    return kv;
  }
  void set_slot(int32_t slot, std::span<const LoraEntry* const> by_site) override {
    try {
      stream_.ops().slots().set(slot, by_site);
    } catch (const Error&) {
      // Freeing must not fail: whoever frees has no way to say so, and no row names the slot any more.
      if (!by_site.empty()) throw;
    }
  }

  MemoryUse memory() const override {
    device_->use();
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "memory of the device");
    return {.total = total,
            .free = free + pool_->cached_bytes(),
            .weights = weight_bytes_->load(std::memory_order_relaxed),
            .adapters = adapter_bytes_->load(std::memory_order_relaxed),
            .kv = kv_bytes_->load(std::memory_order_relaxed),
            .steps = pool_->used_bytes() + pool_->cached_bytes() + stream_.recorded_bytes()};
  }
  /// Products of 512 rows leave multiprocessors idle at their ends; those of other cards and of exact precision are
  /// slow enough to fill them, and a step of theirs would be long.
  int prompt_rows() const override {
    device_->use();
    return fast_ && is_hopper() ? 2048 : kPromptRows;
  }
  bool lost() const override { return is_lost(device_->index()); }
  Stream& stream() override { return stream_; }

 private:
  const std::shared_ptr<const Device> device_;
  const std::shared_ptr<Pool> pool_;
  Uploader uploader_;
  const bool fast_;
  const ByteCounter weight_bytes_ = make_byte_counter(), adapter_bytes_ = make_byte_counter(),
                    kv_bytes_ = make_byte_counter();
  CudaStream stream_;
};

int count() { return probe(0).devices; }

std::string describe(int device) {
  const Probe p = probe(device);
  return cat(p.name, ", compute capability ", p.major, ".", p.minor, ", driver for CUDA ", p.driver / 1000, ".",
             p.driver % 1000 / 10);
}

uint64_t memory_bytes(int device) {
  cudaDeviceProp properties;
  return cudaGetDeviceProperties(&properties, device) == cudaSuccess ? properties.totalGlobalMem : 0;
}

uint64_t free_bytes(int device) {
  size_t free = 0, total = 0;
  if (cudaSetDevice(device) != cudaSuccess || cudaMemGetInfo(&free, &total) != cudaSuccess) return 0;
  return free;
}

/// Of copying, counting what is read and what is written: what a card's memory does at best.
double bandwidth(int device, int) {
  constexpr size_t kBytes = size_t{512} << 20;
  constexpr int kTimes = 8;
  const auto on = std::make_shared<const Device>(device);
  const DeviceBytes from(on, kBytes), to(on, kBytes);
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "measure");
  check(cudaEventCreate(&end), "measure");
  float best = std::numeric_limits<float>::infinity();
  for (int i = 0; i < kTimes; ++i) {
    float ms = 0;
    check(cudaEventRecord(begin, on->compute()), "measure");
    check(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, on->compute()), "measure");
    check(cudaEventRecord(end, on->compute()), "measure");
    check(cudaEventSynchronize(end), "measure");
    check(cudaEventElapsedTime(&ms, begin, end), "measure");
    best = std::min(best, ms);
  }
  (void)cudaEventDestroy(begin);
  (void)cudaEventDestroy(end);
  return 2.0 * double(kBytes) / (double(best) / 1000);
}

/// What the kernels that run on a card were compiled for.
std::string target_of(const Probe& p) {
  if (code_major(p.major) == 8) return "sm_80";
  return p.major == 9 ? "sm_90a" : "compute_90";
}

}  // namespace
}  // namespace cuda

BackendEntry cuda_backend_entry() {
  return {.name = "cuda",
          .count = cuda::count,
          .absent =
              [](int device) {
                if (cuda::is_lost(device)) return std::string("the card was lost to an error; start the program again");
                return cuda::absent_text(cuda::probe(device));
              },
          .lacks = [](int, const Format& f) { return known_format(f) ? "" : cat("matmul(", to_string(f), ")"); },
          .describe = cuda::describe,
          .memory_bytes = cuda::memory_bytes,
          .free_bytes = cuda::free_bytes,
          .bandwidth = cuda::bandwidth,
          .instruction_sets = [](int device) { return std::vector{cuda::target_of(cuda::probe(device))}; },
          .create = [](const BackendOptions& options) -> std::unique_ptr<Backend> {
            const std::string target = cuda::target_of(cuda::probe(options.device));
            if (!options.instruction_set.empty() && options.instruction_set != target) {
              throw Error(ErrorCode::device, "cuda",
                          cat("instruction set: expected ", target, ", got '", options.instruction_set, "'"));
            }
            return std::make_unique<cuda::CudaBackend>(options);
          },
          .lacking = {std::begin(cuda::kLacking), std::end(cuda::kLacking)},
          .own_memory = true};
}

}  // namespace bumblebee
