// What prompts are made of, on a card with sm_90a: products of many rows (right against f64, within the bound of
// docs/internals/numerics.md; the same bits whatever the tiles; how fast) and attention of many rows.
// Without CMake: nvcc -std=c++20 -O3 -gencode=arch=compute_90a,code=sm_90a -Isrc -o prompts bench/cuda/prompts.cu
//   src/backend/cuda/kernels/{matmul,lora}_wide*.cu src/backend/cuda/kernels/attend_tiles*.cu
//   src/backend/cuda/kernels/matmul_batch.cu
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "backend/cuda/kernels/attend_tiles.h"
#include "backend/cuda/kernels/matmul_batch.h"
#include "backend/cuda/kernels/matmul_wide.cuh"
#include "check_cuda.h"

using namespace bumblebee::cuda;

#ifndef BB_WITH_BACKEND
namespace bumblebee::cuda {
void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}
}  // namespace bumblebee::cuda
#endif

namespace {

std::mt19937 random_bits(7);
float normal() { return std::normal_distribution<float>()(random_bits); }
uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float from_bf16(uint16_t x) {
  const uint32_t bits = uint32_t(x) << 16;
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}
template <class T>
T* device(const std::vector<T>& host) {
  T* p = nullptr;
  CHECK_CUDA(cudaMalloc(&p, host.size() * sizeof(T)));
  CHECK_CUDA(cudaMemcpy(p, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  return p;
}

struct Weights {
  int out, in, bits, group;
  std::vector<uint32_t> codes;
  std::vector<uint16_t> scales, biases;
  uint32_t* d_codes;
  uint16_t *d_scales, *d_biases;
  float* d_units = nullptr;
  WeightView view;

  Weights(int out, int in, int bits, int group) : out(out), in(in), bits(bits), group(group) {
    codes.resize(size_t(out) * in * bits / 32);
    for (uint32_t& c : codes) c = random_bits();
    for (size_t i = 0; i < size_t(out) * (in / group); ++i) {
      const float s = 0.02f * (0.5f + (random_bits() & 0xffff) / 65536.0f) * (random_bits() & 1 ? 1 : -1);
      scales.push_back(to_bf16(s));
      biases.push_back(to_bf16(-s * (1 << bits) * 0.47f));
    }
    d_codes = device(codes), d_scales = device(scales), d_biases = device(biases);
    view = {reinterpret_cast<uint8_t*>(d_codes),
            d_scales,
            d_biases,
            size_t(in) * bits / 8,
            out,
            in,
            bits,
            group,
            in / group,
            Element::bf16,
            Element::bf16};
    CHECK_CUDA(cudaMalloc(&d_units, size_t(out) * 4));
    fill_units(view, out, d_units, nullptr);
    view.units = d_units;
  }
  void release() const { cudaFree(d_codes), cudaFree(d_scales), cudaFree(d_biases), cudaFree(d_units); }
  double value(int n, int k) const {
    const uint32_t* row = codes.data() + size_t(n) * in * bits / 32;
    const int at = k * bits, word = at / 32, shift = at % 32;
    uint64_t both = row[word];
    if (shift + bits > 32) both |= uint64_t(row[word + 1]) << 32;
    const uint32_t code = uint32_t(both >> shift) & ((1u << bits) - 1);
    const size_t g = size_t(n) * (in / group) + k / group;
    return double(from_bf16(scales[g])) * code + double(from_bf16(biases[g]));
  }
};

/// The largest error in parts of the bound, over some elements.
double worst(const std::vector<float>& x, const Weights& w, const std::vector<float>& y, int rows) {
  double most = 0;
  for (int i = 0; i < 400; ++i) {
    const int r = i < 8 ? std::max(0, rows - 1 - i) : int(random_bits() % rows),
              n = i % 16 < 4 ? w.out - 1 - i % 4 : int(random_bits() % w.out);
    double want = 0, bound = 0, size = 0;
    for (int first = 0; first < w.in; first += 64) {
      std::vector<double> all(3, 0.0);
      double moved = 0, of_group = 0;
      for (int k = first; k < std::min(w.in, first + 64); ++k) {
        const double v = x[size_t(r) * w.in + k], q = w.value(n, k);
        want += v * q, size += std::abs(v) * std::abs(q) * 3, moved += std::abs(q);
        all.push_back(std::abs(v)), of_group += std::abs(v) * std::abs(q);
      }
      std::sort(all.rbegin(), all.rend());
      bound += std::max(std::max(all[2] / 127, all[0] / 16256) / 2 * moved, of_group / 1024);
    }
    bound += 6 * std::sqrt(w.in) * size / 16777216;
    const double error = std::abs(double(y[size_t(r) * w.out + n]) - want);
    most = std::isfinite(y[size_t(r) * w.out + n]) ? std::max(most, error / bound) : INFINITY;
  }
  return most;
}

using Run = void (*)(const WideInput&, const ProductTerm*, int);
template <int Chunks>
void run_tiles(const WideInput& x, const ProductTerm* terms, int count) {
  run_wide<4, Chunks>(x, terms, count, nullptr);
}
void run_chosen(const WideInput& x, const ProductTerm* terms, int count) { matmul_wide(x, terms, count, nullptr); }

/// As steps of 33 to 64 rows have it (matmul_batch.h).
void run_batch(const WideInput& x, const ProductTerm* terms, int count) {
  static const std::vector<uint8_t> zeros(size_t{48} << 20);
  static uint8_t *const partials = device(zeros), *const counters = device(std::vector<uint8_t>(size_t{1} << 16));
  const BatchPlan plan = plan_batch(terms, count);
  if (plan.partials > zeros.size() || plan.counters > size_t{1} << 16)
    std::fprintf(stderr, "too little workspace\n"), std::exit(1);
  matmul_batch(plan, x, terms, count, partials, counters, nullptr);
}

template <class F>
float time_us(const F& f, int repeats = 20) {
  cudaEvent_t a, b;
  cudaEventCreate(&a), cudaEventCreate(&b);
  for (int i = 0; i < 3; ++i) f();
  cudaEventRecord(a);
  for (int i = 0; i < repeats; ++i) f();
  cudaEventRecord(b);
  CHECK_CUDA(cudaEventSynchronize(b));
  float ms = 0;
  cudaEventElapsedTime(&ms, a, b);
  return ms * 1000 / float(repeats);
}

void check_one(int bits, int group, int rows, int in, int out) {
  const Weights w(out, in, bits, group);
  std::vector<float> x(size_t(rows) * in);
  for (size_t i = 0; i < x.size(); ++i) x[i] = normal() * (i / in % 4 == 1 && i % in == 5 ? 50.0f : 1.0f);
  if (rows > 3) std::fill_n(x.begin() + 2 * in, in, 0.0f);
  float* d_x = device(x);
  std::vector<float> y(size_t(rows) * out), first;
  float* d_y = device(y);
  void* workspace;
  CHECK_CUDA(cudaMalloc(&workspace, wide_bytes(rows, in)));
  const WideInput input = wide_input(workspace, rows, in);
  round_wide({.x = d_x}, input, nullptr);
  std::vector<Run> runs;
  if (bits == 4)
    runs = {run_tiles<1>, run_tiles<2>, run_tiles<4>};
  else
    runs = {run_chosen};
  const size_t alike = runs.size();  // sums of batches have another order
  if (rows <= kBatchRows && has_matmul_batch(w.view)) runs.push_back(run_batch);
  for (size_t i = 0; i < runs.size(); ++i) {
    CHECK_CUDA(cudaMemset(d_y, 0xff, y.size() * 4));
    const ProductTerm term = {w.view, nullptr, d_y, false};
    runs[i](input, &term, 1);
    CHECK_CUDA(cudaDeviceSynchronize());
    CHECK_CUDA(cudaMemcpy(y.data(), d_y, y.size() * 4, cudaMemcpyDeviceToHost));
    if (i == 0) first = y;
    std::printf("b%d g%-3d rows %4d in %5d out %5d tiles %zu: error %.3f of the bound, %s\n", bits, group, rows, in,
                out, i, worst(x, w, y, rows),
                i == alike                                          ? "a batch"
                : std::memcmp(y.data(), first.data(), y.size() * 4) ? "OTHER BITS"
                                                                    : "same bits");
  }
  cudaFree(d_x), cudaFree(d_y), cudaFree(workspace), w.release();
}

/// Adapters as the card's table has them: slot s has terms of the ranks that are listed for it, on every module.
struct Adapters {
  struct Term {
    int rank;
    float scale;
    std::vector<uint16_t> a, b;  // [rank, in], [out, padded]
  };
  std::vector<std::vector<std::vector<Term>>> terms;  // [slot][module]
  BatchView batch;

  Adapters(const std::vector<std::vector<int>>& ranks, int in, const std::vector<int>& outs,
           const std::vector<int>& slot) {
    std::vector<SlotView> slots;
    for (const std::vector<int>& of_slot : ranks) {
      std::vector<SiteView> sites;
      terms.emplace_back();
      for (const int out : outs) {
        std::vector<LowRankView> views;
        terms.back().emplace_back();
        for (const int rank : of_slot) {
          const size_t padded = size_t(padded_rank(rank));
          Term term = {rank, 2.0f, std::vector<uint16_t>(size_t(rank) * in),
                       std::vector<uint16_t>(size_t(out) * padded)};
          for (uint16_t& v : term.a) v = to_bf16(normal() / std::sqrt(float(in)));
          for (size_t i = 0; i < term.b.size(); ++i) term.b[i] = int(i % padded) < rank ? to_bf16(normal() * 0.1f) : 0;
          views.push_back({device(term.a), device(term.b), nullptr, rank, term.scale, Element::bf16});
          terms.back().back().push_back(term);
        }
        SiteView site;
        site.present = 1, site.terms = int(views.size()), site.term = device(views), site.first = views.front();
        sites.push_back(site);
      }
      slots.push_back({device(sites), int64_t(sites.size())});
    }
    batch.slots = device(std::vector<SlotTableView>{{device(slots), int64_t(slots.size())}});
    batch.slot = device(slot);
    batch.rows = int(slot.size());
  }
};

void check_lora(int rows, int in, const std::vector<int>& outs) {
  const std::vector<std::vector<int>> ranks = {{16}, {8, 20}, {5}};
  std::vector<Weights> weights;
  for (const int out : outs) weights.emplace_back(out, in, 4, 64);
  std::vector<float> x(size_t(rows) * in);
  for (float& v : x) v = normal();
  float* const d_x = device(x);
  void *workspace, *u;
  const int modules = int(outs.size()), sites[] = {0, 1, 2, 3};
  CHECK_CUDA(cudaMalloc(&workspace, wide_bytes(rows, in)));
  CHECK_CUDA(cudaMalloc(&u, wide_lora_bytes(rows, modules)));
  const WideInput input = wide_input(workspace, rows, in);
  round_wide({.x = d_x}, input, nullptr);
  std::vector<std::vector<float>> first(outs.size());
  for (int mode = 0; mode < 4; ++mode) {  // all of slot 0; of slot 1; none; mixed
    std::vector<int> slot(size_t(rows), mode == 2 ? -1 : mode);
    if (mode == 3)
      for (int r = 0; r < rows; ++r) slot[size_t(r)] = r < rows / 3 ? 0 : int(random_bits() % 4) - 1;
    Adapters adapters(ranks, in, outs, slot);
    if (mode == 0) random_bits.seed(11);
    std::vector<ProductTerm> terms;
    for (const Weights& w : weights) {
      float* d_y;
      CHECK_CUDA(cudaMalloc(&d_y, size_t(rows) * w.out * 4));
      CHECK_CUDA(cudaMemset(d_y, 0xff, size_t(rows) * w.out * 4));
      terms.push_back({w.view, nullptr, d_y, false});
    }
    WideLora lora = shrink_wide(input, sites, modules, 32, false, mode == 3, u, adapters.batch, nullptr);
    lora.follows = mode != 1;
    double most = 0;
    for (int tiles = 0; tiles < (mode == 3 ? 2 : 3); ++tiles) {
      if (tiles == 0) run_wide<4, 1>(input, terms.data(), modules, nullptr, lora);
      if (tiles == 1) run_wide<4, 2>(input, terms.data(), modules, nullptr, lora);
      if (tiles == 2) run_wide<4, 4>(input, terms.data(), modules, nullptr, lora);
      CHECK_CUDA(cudaDeviceSynchronize());
      bool same = true;
      for (int m = 0; m < modules; ++m) {
        const Weights& w = weights[size_t(m)];
        std::vector<float> y(size_t(rows) * w.out);
        CHECK_CUDA(cudaMemcpy(y.data(), terms[size_t(m)].y, y.size() * 4, cudaMemcpyDeviceToHost));
        if (tiles > 0) {
          same = same && std::memcmp(y.data(), first[size_t(m)].data(), y.size() * 4) == 0;
          continue;
        }
        first[size_t(m)] = y;
        for (int i = 0; i < 200; ++i) {
          const int r = int(random_bits() % rows), n = int(random_bits() % w.out), of = slot[size_t(r)];
          double want = 0, size = 0;
          for (int k = 0; k < in; ++k) {
            want += double(x[size_t(r) * in + k]) * w.value(n, k);
            size += std::abs(double(x[size_t(r) * in + k]) * w.value(n, k)) / 1024;
          }
          if (of >= 0) {
            for (const Adapters::Term& term : adapters.terms[size_t(of)][size_t(m)])
              for (int j = 0; j < term.rank; ++j) {
                double sum = 0, sizes = 0;
                for (int k = 0; k < in; ++k) {
                  const double v = double(x[size_t(r) * in + k]) * from_bf16(term.a[size_t(j) * in + k]);
                  sum += v, sizes += std::abs(v);
                }
                const double b = term.scale * from_bf16(term.b[size_t(n) * padded_rank(term.rank) + j]);
                want += b * sum, size += std::abs(b) * sizes / 256;
              }
          }
          const double error = std::abs(double(y[size_t(r) * w.out + n]) - want) / size;
          most = std::isfinite(error) ? std::max(most, error) : INFINITY;
        }
      }
      std::printf("lora rows %d in %d mode %d tiles %d: error %.3f of the bound, %s\n", rows, in, mode, tiles, most,
                  same ? "same bits" : "OTHER BITS");
    }
    for (const ProductTerm& t : terms) cudaFree(t.y);
  }
}

struct Shape {
  const char* name;
  int in;
  std::vector<int> outs;
};

/// Returns what the chosen tiles take, with rounding.
float time_one(const Shape& shape, int rows, int repeats = 20) {
  std::vector<Weights> weights;
  std::vector<ProductTerm> terms;
  size_t outs = 0;
  for (const int out : shape.outs) {
    weights.emplace_back(out, shape.in, 4, 64);
    outs += size_t(out);
  }
  std::vector<float> x(size_t(rows) * shape.in);
  for (float& v : x) v = normal();
  float *d_x = device(x), *d_y;
  CHECK_CUDA(cudaMalloc(&d_y, size_t(rows) * outs * 4));
  size_t at = 0;
  for (const Weights& w : weights) {
    terms.push_back({w.view, nullptr, d_y + at, false});
    at += size_t(rows) * size_t(w.out);
  }
  void* workspace;
  CHECK_CUDA(cudaMalloc(&workspace, wide_bytes(rows, shape.in)));
  const WideInput input = wide_input(workspace, rows, shape.in);
  const float round_us = time_us([&] { round_wide({.x = d_x}, input, nullptr); });
  const Run runs[] = {run_tiles<1>, run_tiles<2>, run_tiles<4>, rows <= kBatchRows ? run_batch : run_chosen};
  float us[std::size(runs)];
  for (size_t i = 0; i < std::size(runs); ++i)
    us[i] = time_us([&] { runs[i](input, terms.data(), int(terms.size())); }, repeats);
  const double flop = 2.0 * rows * shape.in * double(outs);
  std::printf("%-8s rows %5d  round %6.1f us |", shape.name, rows, round_us);
  for (size_t i = 0; i < std::size(runs); ++i) std::printf(" %8.1f us %4.0f TF |", us[i], flop / us[i] / 1e6);
  std::printf("\n");
  std::fflush(stdout);
  cudaFree(d_x), cudaFree(d_y), cudaFree(workspace);
  for (const Weights& w : weights) w.release();
  return us[std::size(runs) - 1] + round_us;
}

/// The chosen tiles without adapters and with one of rank 16, and its part before the product.
void time_lora(const Shape& shape, int rows) {
  std::vector<Weights> weights;
  std::vector<ProductTerm> terms;
  for (const int out : shape.outs) {
    weights.emplace_back(out, shape.in, 4, 64);
    float* d_y;
    CHECK_CUDA(cudaMalloc(&d_y, size_t(rows) * out * 4));
    terms.push_back({weights.back().view, nullptr, d_y, false});
  }
  std::vector<float> x(size_t(rows) * shape.in);
  for (float& v : x) v = normal();
  float* d_x = device(x);
  const int modules = int(terms.size()), sites[] = {0, 1, 2, 3};
  void *workspace, *u;
  CHECK_CUDA(cudaMalloc(&workspace, wide_bytes(rows, shape.in)));
  CHECK_CUDA(cudaMalloc(&u, wide_lora_bytes(rows, modules)));
  const WideInput input = wide_input(workspace, rows, shape.in);
  round_wide({.x = d_x}, input, nullptr);
  const Adapters adapters({{16}}, shape.in, shape.outs, std::vector<int>(size_t(rows), 0));
  const auto shrink = [&] { return shrink_wide(input, sites, modules, 16, false, false, u, adapters.batch, nullptr); };
  const WideLora lora = shrink();
  const Adapters unused({{16}}, shape.in, shape.outs, std::vector<int>(size_t(rows), -1));
  void* nothing;
  CHECK_CUDA(cudaMalloc(&nothing, wide_lora_bytes(rows, modules)));
  const WideLora none = shrink_wide(input, sites, modules, 16, false, false, nothing, unused.batch, nullptr);
  const float base = time_us([&] { matmul_wide(input, terms.data(), modules, nullptr); }),
              idle = time_us([&] { matmul_wide(input, terms.data(), modules, nullptr, none); }),
              adapted = time_us([&] { matmul_wide(input, terms.data(), modules, nullptr, lora); }),
              before = time_us([&] { shrink(); }), both = time_us([&] {
                                                     WideLora follows = shrink();
                                                     follows.follows = true;
                                                     matmul_wide(input, terms.data(), modules, nullptr, follows);
                                                   });
  std::printf(
      "%-8s rows %5d base %7.1f us, beside an adapter %7.1f us, with one %7.1f us, before %6.1f us, both %7.1f us: "
      "%.1f%%\n",
      shape.name, rows, base, idle, adapted, before, both, 100 * (both / base - 1));
  cudaFree(d_x), cudaFree(workspace), cudaFree(u), cudaFree(nothing);
  for (const ProductTerm& t : terms) cudaFree(t.y);
  for (const Weights& w : weights) w.release();
}

/// `rows` rows behind `past` tokens: 32 heads of 128 that share 8, as in Qwen3-8B.
void time_attention(int rows, int past, Element element) {
  constexpr int kHeads = 32, kKvHeads = 8, kDim = 128, kPage = 64;
  const size_t head =
      size_t(kPage) * kDim * (element == Element::i8 ? 1 : 2) + (element == Element::i8 ? kPage * 4 : 0);
  const int pages = (past + rows + kPage - 1) / kPage;
  std::vector<float> q(size_t(rows) * kHeads * kDim);
  for (float& v : q) v = normal();
  std::vector<uint16_t> cache(size_t(pages) * 2 * kKvHeads * head / 2);
  for (uint16_t& v : cache) v = element == Element::i8 ? uint16_t(random_bits() & 0x3f3f) : to_bf16(normal());
  uint8_t* const d_cache = reinterpret_cast<uint8_t*>(device(cache));
  std::vector<const uint8_t*> table;
  for (int i = 0; i < pages; ++i) table.push_back(d_cache + size_t(i) * 2 * kKvHeads * head);
  const std::vector<SegmentView> segments = {{0, rows, past, 0}};
  BatchView batch;
  batch.pages = device(table), batch.segments = device(segments), batch.segment_count = 1, batch.rows = rows;
  float* const d_q = device(q);
  float* const d_out = device(q);
  const AttendArgs args = {.kv = {element, kPage, kKvHeads, kDim, head, size_t(kPage) * kDim},
                           .q = d_q,
                           .out = d_out,
                           .heads = kHeads,
                           .scale = 0.088f};
  const float us = time_us([&] { attend_tiles(args, batch, nullptr); }, 10);
  const double flop = 4.0 * rows * (past + rows / 2.0) * kHeads * kDim;
  std::printf("attention %s rows %5d past %5d: %8.1f us %4.0f TF\n", element == Element::i8 ? "int8" : "bf16", rows,
              past, us, flop / us / 1e6);
  cudaFree(d_cache), cudaFree(const_cast<uint8_t**>(
                         const_cast<uint8_t* const*>(reinterpret_cast<const uint8_t* const*>(batch.pages))));
  cudaFree(const_cast<SegmentView*>(batch.segments)), cudaFree(d_q), cudaFree(d_out);
}

}  // namespace

int main(int count, char** words) {
  if (count > 1 && std::strcmp(words[1], "once") == 0) {  // for a profiler
    time_one({"gate up", 4096, {12288, 12288}}, 2048, 1);
    return 0;
  }
  const Shape shapes[] = {{"qkv", 4096, {4096, 1024, 1024}},
                          {"o", 4096, {4096}},
                          {"gate up", 4096, {12288, 12288}},
                          {"down", 12288, {4096}}};
  const auto with_adapters = [&] {
    check_lora(200, 1152, {152, 336});
    for (const int rows : {512, 2048})
      for (const Shape& shape : shapes) time_lora(shape, rows);
  };
  if (count > 1 && std::strcmp(words[1], "adapters") == 0) {
    with_adapters();
    return 0;
  }
  for (const Element element : {Element::bf16, Element::i8}) {
    time_attention(512, 0, element);
    time_attention(2048, 0, element);
    time_attention(512, 7680, element);
    time_attention(8192, 0, element);
  }
  check_one(4, 64, 33, 4096, 640);
  check_one(4, 64, 64, 12288, 328);
  check_one(4, 64, 300, 1088, 333);
  check_one(4, 128, 130, 1152, 300);
  check_one(4, 32, 129, 1056, 300);
  for (const int bits : {2, 3, 5, 6, 8})
    for (const int group : {32, 64, 128}) check_one(bits, group, 70, 1152, 150);
  check_one(4, 64, 70, 40960, 150);
  std::printf("tiles 128x64, 128x128, 128x256, chosen (of up to 64 rows a batch's)\n");
  for (const int rows : {64, 128, 512, 2048}) {
    float sum = 0;
    for (const Shape& shape : shapes) sum += time_one(shape, rows);
    std::printf("layer rows %d: %.1f us\n", rows, sum);
  }
  with_adapters();
  return 0;
}
