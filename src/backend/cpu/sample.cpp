// Choosing tokens: rows spread over the threads, or, where there are fewer rows, their exponentials.
#include <algorithm>
#include <limits>

#include "backend/cpu/cpu_ops.h"
#include "backend/sample.h"

namespace bumblebee::cpu {
namespace {

constexpr int64_t kBlockGrain = 64;  // blocks of a vocabulary that a thread looks at, at least: two microseconds

}  // namespace

Sampled CpuOps::sample(const Tensor& logits) {
  const int rows = logits.rows(), vocab = logits.cols();
  Sampled out{.ids = memory_->make(rows, 1, DType::i32), .logprobs = {}, .top_ids = {}};
  std::fill_n(elements<int32_t>(out.ids), rows, kNotAsked);
  if (batch_.sample.empty()) return out;
  check_choices(batch_, vocab);
  BB_CHECK(batch_.sample.size() == size_t(rows), batch_.sample.size(), " choices for ", rows, " rows");

  bool logprobs = false;
  int tops = 0;
  sampled_rows_.clear();
  bool weighs = false;
  for (int r = 0; r < rows; ++r) {
    const SampleRow& row = batch_.sample[size_t(r)];
    if (row.mode == SampleRow::Mode::none) continue;
    sampled_rows_.push_back(r);
    weighs = weighs || RowSampler::weighs(row, vocab);
    logprobs = logprobs || row.logprob;
    if (row.logprob) tops = std::max(tops, row.top_logprobs);
  }
  if (logprobs) {
    out.logprobs = memory_->make(rows, 1 + tops, DType::f64);
    out.top_ids = memory_->make(rows, tops, DType::i32);
    std::fill_n(elements<double>(out.logprobs), size_t(rows) * size_t(1 + tops),
                -std::numeric_limits<double>::infinity());
    std::fill_n(elements<int32_t>(out.top_ids), size_t(rows) * size_t(tops), -1);
  }

  const int64_t count = int64_t(sampled_rows_.size());
  const auto read = [&](RowSampler& sampler, int64_t i) {
    const int r = sampled_rows_[size_t(i)];
    const SampleRow& row = batch_.sample[size_t(r)];
    sampler.read({cpu::row(logits, r), size_t(vocab)}, row,
                 std::span(batch_.changes).subspan(size_t(row.first_change), size_t(row.changes)));
  };
  const auto finish = [&](RowSampler& sampler, int64_t i) {
    const size_t r = size_t(sampled_rows_[size_t(i)]);
    double* const row_logprobs = logprobs ? elements<double>(out.logprobs) + r * size_t(1 + tops) : nullptr;
    int32_t* const row_tops = logprobs ? elements<int32_t>(out.top_ids) + r * size_t(tops) : nullptr;
    elements<int32_t>(out.ids)[r] = sampler.finish(row_logprobs, row_tops);
  };

  samplers_.resize(size_t(threads_.threads()));
  for (size_t i = 0; i < std::min(samplers_.size(), size_t(count)); ++i) samplers_[i].reserve(vocab);
  const int64_t parts = threads_.threads();
  if (count >= parts) {
    threads_.for_each(count, [&](int64_t i, int thread) {
      RowSampler& sampler = samplers_[size_t(count == parts ? i : thread)];
      read(sampler, i);
      sampler.look(0, sampler.blocks());
      sampler.begin();
      if (RowSampler::weighs(batch_.sample[size_t(sampled_rows_[size_t(i)])], vocab)) {
        for (int b = 0; b < sampler.blocks(); ++b) {
          sampler.weigh(b, b + 1);
          sampler.add(b);
        }
      }
      finish(sampler, i);
    });
    return out;
  }
  // Few rows: by one thread each, the others would wait, and fall asleep over a large vocabulary.
  for (int64_t i = 0; i < count; ++i) read(samplers_[size_t(i)], i);
  const int all = samplers_[0].blocks();
  threads_.for_ranges(all, kBlockGrain, [&](int64_t first, int64_t last, int) {
    for (int64_t i = 0; i < count; ++i) samplers_[size_t(i)].look(int(first), int(last));
  });
  if (!weighs) {
    threads_.for_each(count, [&](int64_t i, int) {
      samplers_[size_t(i)].begin();
      finish(samplers_[size_t(i)], i);
    });
    return out;
  }
  threads_.for_each(count, [&](int64_t i, int) { samplers_[size_t(i)].begin(); });
  threads_.for_each(count * parts, [&](int64_t task, int) {
    RowSampler& sampler = samplers_[size_t(task / parts)];
    const Range blocks = share(sampler.blocks(), 1, task % parts, task % parts + 1, parts);
    sampler.weigh(int(blocks.first), int(blocks.last));
  });
  threads_.for_each(count, [&](int64_t i, int) {
    RowSampler& sampler = samplers_[size_t(i)];
    for (int b = 0; b < sampler.blocks(); ++b) sampler.add(b);
    finish(sampler, i);
  });
  return out;
}

}  // namespace bumblebee::cpu
