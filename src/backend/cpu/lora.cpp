// Adapters of a batch's rows. Rows with one slot lie together and are worked on as a run. u = A x is divided over ranks
// (few rows) or rows (many), B u over output features, so that one row has work for every thread. A module's products
// share x, and their ranks are one list of work.
#include "backend/cpu/lora.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "backend/cpu/cpu_ops.h"

namespace bumblebee::cpu {
namespace {

bool fits_bf16(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return (std::bit_cast<uint32_t>(v) & 0xffffu) == 0; });
}

AlignedBytes stored(const Kernels& k, std::span<const float> values, Element element) {
  constexpr size_t kPiece = size_t{1} << 20;  // the kernel counts in int
  AlignedBytes bytes = aligned_bytes(values.size() * size_of(element));
  for (size_t at = 0; at < values.size(); at += kPiece)
    k.store(values.data() + at, int(std::min(kPiece, values.size() - at)), element,
            bytes.get() + at * size_of(element));
  return bytes;
}

/// Rows first..first+count of one slot.
struct Run {
  int first = 0, count = 0;
  int32_t slot = -1;
};

/// One term of one run in one module: where its u lies.
struct Term {
  const Run* run = nullptr;
  const LoraEntry::Term* term = nullptr;
  float* u = nullptr;  // [run.count, rank]
};

}  // namespace

LowRankWeights pack_factors(const Kernels& k, const HostLowRank& f, LowRankUse use, bool fast,
                            const ByteCounter& counter) {
  const size_t rank = size_t(f.rank), in = size_t(f.in), out = size_t(f.out), blocks = (out + 15) / 16;
  BB_CHECK(f.a.size() == rank * in && f.b.size() == out * rank && (f.bias.empty() || f.bias.size() == out));
  auto packed = std::make_shared<CpuLowRank>();
  packed->a_element = fast || fits_bf16(f.a) ? Element::bf16 : Element::f32;
  packed->b_element = fast || fits_bf16(f.b) ? Element::bf16 : Element::f32;
  if (use == LowRankUse::linear) {
    packed->a = stored(k, f.a, packed->a_element);
  } else {
    std::vector<float> columns(in * rank);
    for (size_t i = 0; i < rank; ++i) {
      for (size_t t = 0; t < in; ++t) columns[t * rank + i] = f.a[i * in + t];
    }
    packed->a = stored(k, columns, packed->a_element);
  }
  std::vector<float> b(blocks * rank * 16, 0.0f);
  for (size_t n = 0; n < out; ++n) {
    for (size_t i = 0; i < rank; ++i) b[(n / 16 * rank + i) * 16 + n % 16] = f.b[n * rank + i];
  }
  packed->b = stored(k, b, packed->b_element);
  if (!f.bias.empty()) {
    packed->bias.assign(f.bias.begin(), f.bias.end());
    packed->bias.resize(blocks * 16, 0.0f);
  }
  packed->size = rank * in * size_of(packed->a_element) + b.size() * size_of(packed->b_element) +
                 packed->bias.size() * sizeof(float);
  packed->counted = CountedBytes(counter, packed->size);
  return {f.rank, f.in, f.out, std::move(packed)};
}

void dora_scale(const Kernels& k, const WeightRows& w, int out, const HostLowRank& f, float scale,
                std::span<const float> magnitude, bool by_column, float* result) {
  constexpr int kRows = 48;
  const size_t in = size_t(w.in), rank = size_t(f.rank);
  BB_CHECK(magnitude.size() == (by_column ? in : size_t(out)));
  std::vector<float> panel(kRows * in), scaled(kRows * rank);
  std::vector<double> squares(magnitude.size());
  for (int n = 0; n < out; n += kRows) {
    const int rows = std::min(kRows, out - n);
    k.decode(w, n, n + rows, 0, w.in, panel.data(), in);
    for (size_t i = 0; i < size_t(rows) * rank; ++i) scaled[i] = scale * f.b[size_t(n) * rank + i];
    k.small_gemm({.a = scaled.data(),
                  .a_stride = rank,
                  .b = f.a.data(),
                  .b_stride = in,
                  .element = Element::f32,
                  .c = panel.data(),
                  .c_stride = in,
                  .rows = rows,
                  .cols = w.in,
                  .depth = f.rank,
                  .accumulate = true});
    for (int r = 0; r < rows; ++r) {
      const float* row = panel.data() + size_t(r) * in;
      double sum = 0;
      for (size_t c = 0; c < in; ++c) {
        const double square = double(row[c]) * double(row[c]);
        if (by_column) squares[c] += square;
        sum += square;
      }
      if (!by_column) squares[size_t(n + r)] = sum;
    }
  }
  for (size_t i = 0; i < squares.size(); ++i) result[i] = float(double(magnitude[i]) / std::sqrt(squares[i]));
}

/// Everything that one call of lora() works on.
struct CpuOps::LoraWork {
  std::vector<Run> runs;
  std::vector<std::vector<Term>> terms;  // by module
  size_t u_size = 0;
  int64_t shrink = 0, expand = 0;       // multiply-adds
  std::vector<bool> finishes, touched;  // by module: factors or biases follow the terms; anything is done at all
};

int32_t CpuOps::slot_of(RowSet rows, int r) const {
  return batch_.slot[rows == RowSet::all ? size_t(r) : size_t(batch_.logit_rows[size_t(r)])];
}

CpuOps::LoraWork CpuOps::lora_work(const Tensor& x, RowSet rows, std::span<const LoraModule> modules) {
  LoraWork work;
  for (int r = 0; r < x.rows();) {
    const int32_t slot = slot_of(rows, r);
    Run run{.first = r, .count = 1, .slot = slot};
    while (r + run.count < x.rows() && slot_of(rows, r + run.count) == slot) ++run.count;
    r += run.count;
    if (slot >= 0) work.runs.push_back(run);
  }
  for (const LoraModule& module : modules) {
    std::vector<Term>& terms = work.terms.emplace_back();
    for (const Run& run : work.runs) {
      const LoraEntry* entry = slots_.at(run.slot, module.site);
      if (entry == nullptr) continue;
      for (const LoraEntry::Term& term : entry->terms) {
        BB_CHECK(term.factors.in == x.cols(), "in ", term.factors.in, " cols ", x.cols());
        const int64_t ranks = int64_t(run.count) * term.factors.rank;
        terms.push_back({&run, &term, nullptr});
        work.u_size += size_t(ranks);
        work.shrink += ranks * term.factors.in;
        work.expand += ranks * term.factors.out;
      }
    }
  }
  if (lora_u_.size() < work.u_size) lora_u_.resize(work.u_size);
  float* u = lora_u_.data();
  for (std::vector<Term>& terms : work.terms) {
    for (Term& term : terms) {
      term.u = u;
      u += size_t(term.run->count) * size_t(term.term->factors.rank);
    }
  }
  return work;
}

void CpuOps::lora_shrink(const Tensor& x, const LoraWork& work) {
  struct Task {
    const Term* term;
    int first_row, rows, first_rank, ranks;
  };
  std::vector<Task> tasks;
  int64_t all_ranks = 0;
  for (const auto& terms : work.terms) {
    for (const Term& term : terms) all_ranks += term.term->factors.rank;
  }
  const int threads = threads_.threads();
  const bool serial = threads == 1 || work.shrink < kSerialProducts;
  const auto pieces_of = [&](const Run& run, int rank) {
    if (serial || run.count >= 8 * threads) return 1;
    const int64_t each = std::max(all_ranks / (2 * threads), std::clamp<int64_t>(all_ranks / threads, 4, 8));
    return int((rank + each - 1) / each);
  };
  for (const auto& terms : work.terms) {
    for (const Term& term : terms) {
      const int rank = term.term->factors.rank, count = term.run->count, pieces = pieces_of(*term.run, rank);
      const int rows = count < 8 * threads ? count : std::min(kShrinkRows, (count + threads - 1) / threads);
      for (int r = 0; r < count; r += rows) {
        for (int p = 0; p < pieces; ++p) {
          const int a = rank * p / pieces, b = rank * (p + 1) / pieces;
          tasks.push_back({&term, r, std::min(rows, count - r), a, b - a});
        }
      }
    }
  }
  // Tasks that read the same rows of x follow each other.
  std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) {
    return a.term->run->first + a.first_row < b.term->run->first + b.first_row;
  });
  const auto shrink = [&](const Task& t) {
    const CpuLowRank& f = packed(t.term->term->factors);
    const size_t rank = size_t(t.term->term->factors.rank);
    k_.lora_shrink({.a = reinterpret_cast<const uint8_t*>(f.a.get()) +
                         size_t(t.first_rank) * size_t(x.cols()) * size_of(f.a_element),
                    .element = f.a_element,
                    .a_stride = size_t(x.cols()),
                    .ranks = t.ranks,
                    .x = {row(x, t.term->run->first + t.first_row), size_t(x.cols())},
                    .rows = t.rows,
                    .depth = x.cols(),
                    .u = t.term->u + size_t(t.first_row) * rank + t.first_rank,
                    .u_stride = rank});
  };
  if (serial) {
    for (const Task& task : tasks) shrink(task);
  } else {
    threads_.for_each(int64_t(tasks.size()), [&](int64_t i, int) { shrink(tasks[size_t(i)]); });
  }
}

/// Columns [first, last) of one module: terms, factors, biases.
void CpuOps::lora_finish(const LoraWork& work, size_t m, const LoraModule& module, RowSet rows, const Tensor& y,
                         int first, int last) {
  const auto entry_of = [&](int r) { return slots_.at(slot_of(rows, r), module.site); };
  if (module.bias != nullptr) {
    for (int r = 0; r < y.rows(); ++r) {
      const LoraEntry* entry = entry_of(r);
      if (entry == nullptr || !entry->comes_before_bias())
        k_.add(row(y, r) + first, data(*module.bias) + first, last - first);
    }
  }
  for (const Term& term : work.terms[m]) {
    const LowRankWeights& factors = term.term->factors;
    const CpuLowRank& f = packed(factors);
    k_.lora_expand({.b = reinterpret_cast<const uint8_t*>(f.b.get()),
                    .element = f.b_element,
                    .rank = factors.rank,
                    .bias = f.bias.empty() ? nullptr : f.bias.data(),
                    .scale = term.term->scale,
                    .u = {term.u, size_t(factors.rank)},
                    .rows = term.run->count,
                    .y = row(y, term.run->first),
                    .y_stride = size_t(y.cols()),
                    .first = first,
                    .last = last});
  }
  if (!work.finishes[m]) return;
  for (int r = 0; r < y.rows(); ++r) {
    const LoraEntry* entry = entry_of(r);
    if (entry == nullptr || !entry->comes_before_bias()) continue;
    if (entry->dora_scale) k_.multiply(row(y, r) + first, data(entry->dora_scale) + first, last - first);
    const Tensor* bias = entry->bias ? &entry->bias : module.bias;
    if (bias != nullptr) k_.add(row(y, r) + first, data(*bias) + first, last - first);
  }
}

/// Rows of entries with a weight of their own: y = x·weightᵀ. Makes y where every row has one.
void CpuOps::lora_replace(const Tensor& x, const LoraWork& work, const LoraModule& module, Tensor& y) {
  for (const Run& run : work.runs) {
    const LoraEntry* entry = slots_.at(run.slot, module.site);
    if (entry == nullptr || !entry->weight) continue;
    const MatmulTerm term{.weight = &entry->weight, .bias = nullptr};
    Tensor own_y;
    matmul(x.slice_rows(run.first, run.count), {&term, 1}, {&own_y, 1});
    if (!y && run.count == x.rows()) {
      y = std::move(own_y);
      return;
    }
    if (!y) y = memory_->make(x.rows(), entry->weight.out);
    std::copy_n(data(own_y), size_t(run.count) * size_t(y.cols()), row(y, run.first));
  }
}

void CpuOps::lora(const Tensor& x, RowSet rows, std::span<const LoraModule> modules, std::span<Tensor> y) {
  LoraWork work = lora_work(x, rows, modules);
  int64_t total = 0;
  for (size_t m = 0; m < modules.size(); ++m) {
    bool replaces = false, finishes = modules[m].bias != nullptr;
    for (const Run& run : work.runs) {
      const LoraEntry* entry = slots_.at(run.slot, modules[m].site);
      if (entry == nullptr) continue;
      replaces = replaces || entry->weight;
      finishes = finishes || entry->dora_scale || entry->bias;
    }
    work.finishes.push_back(finishes);
    work.touched.push_back(replaces || finishes || !work.terms[m].empty());
    if (!work.touched.back()) continue;
    BB_CHECK(bool(y[m]) != modules[m].replaced, "module ", modules[m].site);
    if (y[m]) y[m] = make_writable(y[m]);
    if (replaces) lora_replace(x, work, modules[m], y[m]);
    total += (y[m].cols() + 15) / 16 * 16;
  }
  if (total == 0) return;
  lora_shrink(x, work);
  const auto finish = [&](int64_t first, int64_t last, int) {
    int64_t base = 0;
    for (size_t m = 0; m < modules.size(); ++m) {
      if (!work.touched[m]) continue;
      const int out = y[m].cols();
      const int a = int(std::clamp<int64_t>(first - base, 0, out)), b = int(std::clamp<int64_t>(last - base, 0, out));
      if (a < b) lora_finish(work, m, modules[m], rows, y[m], a, b);
      base += (out + 15) / 16 * 16;
    }
  };
  if (work.expand < kSerialProducts) {
    finish(0, total, 0);
  } else {
    threads_.for_ranges(total, 64, finish);
  }
}

void CpuOps::lora_embed(int site, Tensor& y) {
  y = make_writable(y);
  std::vector<float> u;
  for (int r = 0; r < y.rows(); ++r) {
    const LoraEntry* entry = slots_.at(batch_.slot[size_t(r)], site);
    if (entry == nullptr) continue;
    const int token = batch_.tokens[size_t(r)], dims = y.cols();
    if (entry->weight) {
      const WeightRows& w = static_cast<const CpuWeight&>(*entry->weight.packed).rows;
      k_.decode(w, token, token + 1, 0, dims, row(y, r), size_t(dims));
    }
    for (const LoraEntry::Term& term : entry->terms) {
      const CpuLowRank& f = packed(term.factors);
      const int rank = term.factors.rank;
      u.resize(size_t(rank));
      k_.decode({.codes = reinterpret_cast<const uint8_t*>(f.a.get()),
                 .row_bytes = size_t(rank) * size_of(f.a_element),
                 .in = rank,
                 .element = f.a_element},
                token, token + 1, 0, rank, u.data(), size_t(rank));
      k_.lora_expand({.b = reinterpret_cast<const uint8_t*>(f.b.get()),
                      .element = f.b_element,
                      .rank = rank,
                      .bias = f.bias.empty() ? nullptr : f.bias.data(),
                      .scale = term.scale,
                      .u = {u.data(), size_t(rank)},
                      .rows = 1,
                      .y = row(y, r),
                      .y_stride = size_t(dims),
                      .first = 0,
                      .last = dims});
    }
    if (!entry->dora_scale) continue;
    if (entry->dora_scale_by_token) {
      k_.scale(row(y, r), data(entry->dora_scale)[token], dims);
    } else {
      k_.multiply(row(y, r), data(entry->dora_scale), dims);
    }
  }
}

Tensor CpuOps::lora_norm(const Tensor& x, RowSet rows, int width, const NormParams& norm, int site) {
  Tensor y = memory_->make(x.rows(), x.cols());
  for_rows(x.rows(), x.cols(), [&](int r) {
    const LoraEntry* entry = slots_.at(slot_of(rows, r), site);
    const float* weight = data(entry != nullptr && entry->norm ? entry->norm : norm.w);
    const int normed = norm.w.cols();
    for (int c = 0; c < x.cols(); c += width) {
      k_.rms_norm(row(x, r) + c, weight, norm.eps, normed, row(y, r) + c);
      std::copy_n(row(x, r) + c + normed, width - normed, row(y, r) + c + normed);
    }
  });
  return y;
}

}  // namespace bumblebee::cpu
