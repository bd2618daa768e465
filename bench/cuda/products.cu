// Products of few rows at the speed of their bytes: one by one, and as the chain of a whole token, beside a copy in the
// same run. One table: shape, rows, us, GB/s, share of the copy rate.
// Without CMake: nvcc -std=c++20 -O3 -gencode=arch=compute_90a,code=sm_90a -Isrc -o products bench/cuda/products.cu
//   src/backend/cuda/kernels/product*.cu src/backend/cuda/kernels/product_plan.cpp
//   products [--model 8b|1.7b|0.6b] [--rows 1,16] [--bits 4] [--group 64] [--only products|chain] [--exact] [--digits]
//     [--apart] [--adapter-rank 16]
// --digits: as cards without sm_90a take rows, also where there are tiles of them (product_rows.h).
// --apart: products of one row each a kernel, also where they are chains (product_chain.h).
// --adapter-rank: of the chain of one row, adapters of every product but the head.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/kernels/product.h"
#include "backend/cuda/kernels/product_chain.h"
#include "backend/cuda/kernels/product_rows.h"
#include "backend/cuda/kernels/ptx.cuh"
#include "check_cuda.h"

using namespace bumblebee::cuda;

namespace {

__device__ uint32_t scramble(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}
__global__ void fill_codes(uint32_t* codes, size_t words, uint32_t seed) {
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < words; i += gridDim.x * blockDim.x)
    codes[i] = scramble(uint32_t(i) * 0x9e3779b9u + seed);
}
/// bf16 scales of either sign, and biases that centre the codes.
__global__ void fill_scales(uint16_t* scales, uint16_t* biases, size_t count, float size, float centre) {
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    const uint32_t r = scramble(uint32_t(i));
    const float s = size * (0.5f + float(r & 0xffff) / 65536.0f) * (r >> 31 ? 1.0f : -1.0f);
    scales[i] = uint16_t(__float_as_uint(s) >> 16);
    biases[i] = uint16_t(__float_as_uint(-s * centre) >> 16);
  }
}
__global__ void fill_floats(float* x, size_t count) {
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
    x[i] = float(scramble(uint32_t(i)) % 2001) / 1000.0f - 1.0f;
}
/// In the place of attention: every output depends on q, k and v.
__global__ void instead_of_attention(const float* qkv, float* y, int q, int kv, int columns) {
  launch_dependents();
  wait_for_inputs();
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  const float* row = qkv + size_t(blockIdx.y) * columns;
  if (i < q)
    __stcg(y + size_t(blockIdx.y) * q + i, __ldcg(row + i) + __ldcg(row + q + i % kv) + __ldcg(row + q + kv + i % kv));
}

/// bf16 numbers of either sign, up to `size`.
__global__ void fill_factors(uint16_t* factors, size_t count, float size) {
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    const uint32_t r = scramble(uint32_t(i) + 77);
    factors[i] = uint16_t(__float_as_uint(size * (float(r & 0xffff) / 32768.0f - 1.0f)) >> 16);
  }
}

template <class T>
T* device(size_t count) {
  void* p = nullptr;
  CHECK_CUDA(cudaMalloc(&p, count * sizeof(T) + 16));
  CHECK_CUDA(cudaMemset(p, 0, count * sizeof(T) + 16));
  return static_cast<T*>(p);
}

struct Options {
  std::string model = "8b", only;
  std::vector<int> rows = {1, 16};
  int bits = 4, group = 64, rank = 0;
  bool exact = false, tiles = true, chains = true;
};
struct Model {
  int layers, hidden, inner, q, kv, vocabulary;
};

cudaStream_t stream;
cudaEvent_t begin, end;

template <class F>
float milliseconds(const F& f) {
  CHECK_CUDA(cudaEventRecord(begin, stream));
  f();
  CHECK_CUDA(cudaEventRecord(end, stream));
  CHECK_CUDA(cudaEventSynchronize(end));
  float time = 0;
  CHECK_CUDA(cudaEventElapsedTime(&time, begin, end));
  return time;
}
float median(std::vector<float> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

/// A copy of 1 GiB and the graph, in turn.
class Rival {
 public:
  Rival() : from_(device<char>(kBytes)), to_(device<char>(kBytes)) {
    fill_codes<<<1024, 256, 0, stream>>>(reinterpret_cast<uint32_t*>(from_), kBytes / 4, 7);
  }
  template <class F>
  void compare(const char* name, int rows, double bytes, int repeats, const F& enqueue) {
    cudaGraph_t graph;
    cudaGraphExec_t run;
    CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    enqueue();
    CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
    CHECK_CUDA(cudaGraphInstantiate(&run, graph, 0));
    std::vector<float> copies, graphs;
    for (int i = 0; i < 12; ++i) {
      const float c =
          milliseconds([&] { CHECK_CUDA(cudaMemcpyAsync(to_, from_, kBytes, cudaMemcpyDeviceToDevice, stream)); });
      float g = 0;
      for (int j = 0; j < 2; ++j) g = milliseconds([&] { CHECK_CUDA(cudaGraphLaunch(run, stream)); });
      if (i > 1) copies.push_back(c), graphs.push_back(g);
    }
    CHECK_CUDA(cudaGraphExecDestroy(run));
    CHECK_CUDA(cudaGraphDestroy(graph));
    const double copy = 2.0 * kBytes / median(copies) / 1e6, rate = bytes * repeats / median(graphs) / 1e6;
    std::printf("%-34s %4d %10.2f %8.0f %8.0f %7.1f%%\n", name, rows, median(graphs) * 1e3 / repeats, rate, copy,
                100 * rate / copy);
    std::fflush(stdout);
  }

 private:
  static constexpr size_t kBytes = size_t(1) << 30;
  char *from_, *to_;
};

class Bench {
 public:
  explicit Bench(const Options& options) : o_(options) {
    m_ = options.model == "0.6b"   ? Model{28, 1024, 3072, 2048, 1024, 151936}
         : options.model == "1.7b" ? Model{28, 2048, 6144, 2048, 1024, 151936}
                                   : Model{36, 4096, 12288, 4096, 1024, 151936};
    const size_t rows = 64, widest = size_t(std::max(m_.inner, m_.q + 2 * m_.kv));
    hidden_ = device<float>(rows * size_t(m_.hidden));
    norm_ = device<float>(widest);
    qkv_ = device<float>(rows * widest);
    mixed_ = device<float>(rows * widest);
    inner_ = device<float>(rows * widest);
    logits_ = device<float>(rows * size_t(m_.vocabulary));
    digits_ = {device<uint8_t>(digit_bytes(64, int(widest), true, 32)),
               device<uint8_t>(step_bytes(64, int(widest), true, 32))};
    workspace_ = device<uint8_t>(size_t(256) << 20);
    counters_ = device<uint8_t>(chain_counters());
    fill_floats<<<64, 256, 0, stream>>>(hidden_, rows * size_t(m_.hidden));
    fill_floats<<<64, 256, 0, stream>>>(norm_, widest);
    fill_floats<<<64, 256, 0, stream>>>(mixed_, rows * widest);
    fill_floats<<<64, 256, 0, stream>>>(inner_, rows * widest);
    for (int i = 0; i < m_.layers; ++i)
      layers_.push_back({weight(m_.q + 2 * m_.kv, m_.hidden), weight(m_.hidden, m_.q), weight(m_.inner, m_.hidden),
                         weight(m_.inner, m_.hidden), weight(m_.hidden, m_.inner)});
    head_ = weight(m_.vocabulary, m_.hidden);
    if (options.rank > 0) adapt(options.rank);
    CHECK_CUDA(cudaStreamSynchronize(stream));
  }

  void products(Rival& rival) {
    for (int rows : o_.rows) {
      const auto each = [&](const char* what, int out, int in, const auto& stage) {
        const std::string name = std::string(what) + " " + std::to_string(out) + " x " + std::to_string(in);
        rival.compare(name.c_str(), rows, bytes(out, in), m_.layers, [&] {
          for (const Layer& layer : layers_) enqueue(stage(layer, rows), rows), flush();
        });
      };
      each("qkv", m_.q + 2 * m_.kv, m_.hidden, [&](const Layer& l, int r) { return qkv(l, r); });
      each("o", m_.hidden, m_.q, [&](const Layer& l, int r) { return o(l, r); });
      each("gate+up", 2 * m_.inner, m_.hidden, [&](const Layer& l, int r) { return gate_up(l, r); });
      each("down", m_.hidden, m_.inner, [&](const Layer& l, int r) { return down(l, r); });
      const std::string name = "head " + std::to_string(m_.vocabulary) + " x " + std::to_string(m_.hidden);
      rival.compare(name.c_str(), rows, bytes(m_.vocabulary, m_.hidden), 1,
                    [&] { enqueue(head(rows), rows), flush(); });
    }
  }

  void chain(Rival& rival) {
    const double layer = bytes(m_.q + 2 * m_.kv, m_.hidden) + bytes(m_.hidden, m_.q) + bytes(2 * m_.inner, m_.hidden) +
                         bytes(m_.hidden, m_.inner);
    for (int rows : o_.rows) {
      const auto layers = [&] {
        // As a step begins: no sums are told yet, and nothing overlaps that.
        if (o_.rank > 0 && rows == 1)
          CHECK_CUDA(cudaMemsetAsync(parts_, 0, 2 * size_t(kLoraParts) * sizeof(float), stream));
        for (const Layer& l : layers_) {
          enqueue(adapted(qkv(l, rows), l.adapters, {0, 1, 2}), rows);
          cudaLaunchConfig_t config = {};
          config.gridDim = dim3(unsigned(m_.q + 127) / 128, unsigned(rows));
          config.blockDim = dim3(128);
          config.stream = stream;
          cudaLaunchAttribute early = {};
          early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
          early.val.programmaticStreamSerializationAllowed = 1;
          config.attrs = &early;
          config.numAttrs = 1;
          flush();
          CHECK_CUDA(cudaLaunchKernelEx(&config, instead_of_attention, static_cast<const float*>(qkv_), mixed_, m_.q,
                                        m_.kv, m_.q + 2 * m_.kv));
          enqueue(adapted(o(l, rows), l.adapters, {3}), rows);
          enqueue(adapted(gate_up(l, rows), l.adapters, {4, 5}), rows);
          enqueue(adapted(down(l, rows), l.adapters, {6}), rows);
        }
        flush();
      };
      rival.compare("layers of a token", rows, layer * m_.layers, 1, layers);
      rival.compare("token", rows, layer * m_.layers + bytes(m_.vocabulary, m_.hidden), 1, [&] {
        layers();
        enqueue(head(rows), rows);
        flush();
      });
    }
  }

 private:
  struct Layer {
    StageWeight qkv, o, gate, up, down;
    const LoraTerm* adapters = nullptr;  // of q, k, v, o, gate, up and down
  };

  double bytes(int out, int in) const { return double(out) * in * (o_.bits / 8.0 + 4.0 / o_.group); }
  StageWeight weight(int out, int in) {
    const size_t words = size_t(out) * size_t(in) / 32 * size_t(o_.bits), groups = size_t(out) * size_t(in / o_.group);
    StageWeight w;
    uint32_t* codes = device<uint32_t>(words);
    uint16_t *scales = device<uint16_t>(groups), *biases = device<uint16_t>(groups);
    const float top = float((1 << o_.bits) - 1);
    fill_codes<<<1024, 256, 0, stream>>>(codes, words, ++seed_);
    fill_scales<<<1024, 256, 0, stream>>>(scales, biases, groups, 0.05f / top, top / 2);
    w.codes = codes, w.scales = scales, w.biases = biases, w.out = out;
    return w;
  }
  ProductStage stage(int in, int rows, const float* x, bool with_norm, StageWeight w, float* y) const {
    ProductStage s;
    w.y = y, w.stride = w.out;
    s.term[0] = w, s.terms = 1, s.in = in, s.rows = rows, s.bits = o_.bits, s.group = o_.group, s.exact = o_.exact;
    s.input = {with_norm ? StageInput::Kind::rms_norm : StageInput::Kind::plain, x, norm_, 1e-6f, digits_};
    s.workspace = workspace_;
    return s;
  }
  ProductStage qkv(const Layer& l, int rows) const { return stage(m_.hidden, rows, hidden_, true, l.qkv, qkv_); }
  ProductStage o(const Layer& l, int rows) const { return added(stage(m_.q, rows, mixed_, false, l.o, hidden_)); }
  ProductStage gate_up(const Layer& l, int rows) const {
    ProductStage s = stage(m_.hidden, rows, hidden_, true, l.gate, inner_);
    s.term[1] = l.up, s.terms = 2, s.epilogue = ProductStage::Epilogue::silu_mul;
    return s;
  }
  ProductStage down(const Layer& l, int rows) const {
    return added(stage(m_.inner, rows, inner_, false, l.down, hidden_));
  }
  ProductStage head(int rows) const { return stage(m_.hidden, rows, hidden_, true, head_, logits_); }
  ProductStage added(ProductStage s) const {
    s.epilogue = ProductStage::Epilogue::add, s.residual = hidden_;
    return s;
  }
  void adapt(int rank) {
    const SiteView* const site = device<SiteView>(1);  // of one term: nothing reads it
    const int padded = padded_rank(rank);
    const auto factors = [&](size_t count, float size) {
      uint16_t* const p = device<uint16_t>(count);
      fill_factors<<<64, 256, 0, stream>>>(p, count, size);
      return p;
    };
    parts_ = device<float>(2 * size_t(kLoraParts));
    for (Layer& layer : layers_) {
      std::vector<LoraTerm> terms;
      for (const auto& [in, out] :
           {std::pair(m_.hidden, m_.q), std::pair(m_.hidden, m_.kv), std::pair(m_.hidden, m_.kv),
            std::pair(m_.q, m_.hidden), std::pair(m_.hidden, m_.inner), std::pair(m_.hidden, m_.inner),
            std::pair(m_.inner, m_.hidden)})
        terms.push_back({factors(size_t(rank) * size_t(in), 0.02f), factors(size_t(padded) * size_t(out), 0.02f), site,
                         rank, padded, nullptr, 1.0f, 1});
      LoraTerm* const table = device<LoraTerm>(terms.size());
      CHECK_CUDA(cudaMemcpy(table, terms.data(), terms.size() * sizeof(LoraTerm), cudaMemcpyHostToDevice));
      layer.adapters = table;
    }
  }
  /// Three terms in place of q, k and v, which have one weight here.
  ProductStage adapted(ProductStage s, const LoraTerm* adapters, const std::vector<int>& sites) const {
    if (o_.rank == 0 || s.rows != 1) return s;
    if (sites.size() == 3) {
      const StageWeight all = s.term[0];
      int row = 0;
      for (const int out : {m_.q, m_.kv, m_.kv}) {
        StageWeight& w = s.term[s.terms == 1 && row == 0 ? 0 : s.terms++];
        const size_t before = size_t(row) * size_t(s.in);
        w = all;
        w.codes = static_cast<const char*>(all.codes) + before / 8 * size_t(o_.bits);
        w.scales = static_cast<const char*>(all.scales) + before / size_t(o_.group) * 2;
        w.biases = static_cast<const char*>(all.biases) + before / size_t(o_.group) * 2;
        w.y = all.y + row, w.out = out, w.stride = all.stride;
        row += out;
      }
    }
    s.lora.terms = adapters, s.lora.ranks = padded_rank(o_.rank);
    for (size_t t = 0; t < sites.size(); ++t) s.lora.site[t] = sites[t];
    s.lora.parts = parts_ + (second_ ? kLoraParts : 0), s.lora.stale = parts_ + (second_ ? 0 : kLoraParts);
    second_ = !second_;
    return s;
  }
  void flush() const {
    if (!linked_.empty()) CHECK_CUDA(launch_chain(linked_.data(), int(linked_.size()), {}, counters_, stream));
    linked_.clear();
  }
  /// One row: what comes before flush() is a chain, as the backend has it.
  void enqueue(ProductStage s, int rows) const {
    if (o_.chains && rows == 1 && fits_chain(s)) {
      if (linked_.size() == kMostLinks) flush();
      linked_.push_back(s);
      return;
    }
    flush();
    if (o_.tiles && takes_row_tiles(s, rows)) {
      if (!rounds_row_tiles(s, rows)) {
        CHECK_CUDA(round_row_tiles(s, stream));
        s.input.kind = StageInput::Kind::tiles;
      }
    } else if (!rounds_in_stage(rows, s.exact)) {
      CHECK_CUDA(quantize_rows(s.input, rows, s.in, s.exact, rows_at_once(s), stream));
      s.input.kind = StageInput::Kind::digits;
    }
    s.apart = apart_ = rows <= 4 || !apart_;  // as the backend deals them
    CHECK_CUDA(launch_stage(s, stream));
  }

  Options o_;
  Model m_;
  std::vector<Layer> layers_;
  StageWeight head_;
  float *hidden_, *norm_, *qkv_, *mixed_, *inner_, *logits_, *parts_ = nullptr;
  DigitRows digits_;
  void *workspace_, *counters_;
  uint32_t seed_ = 0;
  mutable bool apart_ = false, second_ = false;
  mutable std::vector<ProductStage> linked_;
};

std::vector<int> numbers(const char* text) {
  std::vector<int> list;
  for (char* at = const_cast<char*>(text); *at != 0; at += *at == ',') list.push_back(int(std::strtol(at, &at, 10)));
  return list;
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--exact" || flag == "--digits" || flag == "--apart") {
      (flag == "--exact" ? o.exact : flag == "--digits" ? o.tiles : o.chains) = flag == "--exact";
      continue;
    }
    if (i + 1 == argc) return std::fprintf(stderr, "%s wants a value\n", flag.c_str()), 2;
    const char* value = argv[++i];
    if (flag == "--model")
      o.model = value;
    else if (flag == "--rows")
      o.rows = numbers(value);
    else if (flag == "--bits")
      o.bits = std::atoi(value);
    else if (flag == "--group")
      o.group = std::atoi(value);
    else if (flag == "--adapter-rank")
      o.rank = std::atoi(value);
    else if (flag == "--only")
      o.only = value;
    else
      return std::fprintf(stderr, "unknown flag %s\n", flag.c_str()), 2;
  }
  cudaDeviceProp card;
  CHECK_CUDA(cudaGetDeviceProperties(&card, 0));
  CHECK_CUDA(cudaStreamCreate(&stream));
  CHECK_CUDA(cudaFuncSetAttribute(instead_of_attention, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
  CHECK_CUDA(cudaEventCreate(&begin));
  CHECK_CUDA(cudaEventCreate(&end));
  std::printf("%s, Qwen3-%s, %d bits, groups of %d%s\n%-34s %4s %10s %8s %8s %8s\n", card.name, o.model.c_str(), o.bits,
              o.group, o.exact ? ", exact" : "", "shape", "rows", "us", "GB/s", "copy", "share");
  Rival rival;
  Bench bench(o);
  if (o.only != "chain") bench.products(rival);
  if (o.only != "products") bench.chain(rival);
  CHECK_CUDA(cudaDeviceSynchronize());
  return 0;
}
