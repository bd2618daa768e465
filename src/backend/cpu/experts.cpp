// Products gathered by expert. Assignments lie sorted by expert from the first product to the sum, so that the rows of
// one expert are one matrix and each chosen expert's weights are read once. A thread takes rows of weights of several
// experts, by what they cost. Few rows of an expert read its weights as they lie, many go through panels, as in a
// product of all rows: a row's bits do not depend on which it was.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/cpu/cpu_ops.h"

namespace bumblebee::cpu {
namespace {

constexpr int kReadCost = 4;  // reading a row of weights costs as much as multiplying by so many rows of x

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// What one row's choice needs; kept from row to row.
struct RouteScratch {
  std::vector<double> scores, worth, best, chosen;
  std::vector<int32_t> order;
};

/// Takes the groups out that are not among the best.
void leave_best_groups(const RouterParams& router, RouteScratch& s) {
  const size_t groups = size_t(router.groups), size = s.worth.size() / groups;
  s.best.clear();
  for (size_t g = 0; g < groups; ++g) {
    double first = -INFINITY, second = -INFINITY;
    for (size_t e = g * size; e < (g + 1) * size; ++e) {
      second = std::max(second, std::min(first, s.worth[e]));
      first = std::max(first, s.worth[e]);
    }
    s.best.push_back(first + (size > 1 && !router.best_alone ? second : 0));
  }
  s.order.resize(groups);
  std::iota(s.order.begin(), s.order.end(), 0);
  std::stable_sort(s.order.begin(), s.order.end(),
                   [&](int32_t a, int32_t b) { return s.best[size_t(a)] > s.best[size_t(b)]; });
  std::vector<int32_t> left;
  for (int g = 0; g < router.top_groups; ++g) {
    for (size_t e = 0; e < size; ++e) left.push_back(int32_t(size_t(s.order[size_t(g)]) * size + e));
  }
  s.order = std::move(left);
}

void route_row(const float* logits, const RouterParams& router, const float* bias, RouteScratch& s, int32_t* experts,
               float* weights) {
  const size_t count = size_t(router.experts), top_k = size_t(router.top_k);
  const bool softmax = router.score == RouterParams::Score::softmax;
  double highest = -INFINITY, total = 0;
  for (size_t e = 0; e < count; ++e) highest = std::max(highest, double(logits[e]));
  // A softmax with a NaN among its terms is NaN in all of them, also where only the terms of the chosen are computed.
  const bool lost = softmax && std::any_of(logits, logits + count, [](float x) { return std::isnan(x); });
  const auto score = [&](size_t e) {
    return softmax ? std::exp(double(logits[e]) - highest) : sigmoid(double(logits[e]));
  };
  // Where nothing is added, softmax keeps the order of the logits, and a normalised one needs those of the chosen only.
  const bool by_logits = softmax && bias == nullptr && router.groups == 1;
  s.worth.assign(logits, logits + count);
  if (!by_logits || !router.normalise) {
    s.scores.resize(count);
    for (size_t e = 0; e < count; ++e) total += s.scores[e] = score(e);
    for (size_t e = 0; softmax && e < count; ++e) s.scores[e] /= total;
  }
  if (!by_logits) {
    for (size_t e = 0; e < count; ++e) s.worth[e] = s.scores[e] + (bias != nullptr ? double(bias[e]) : 0);
  }
  for (double& w : s.worth) w = std::isnan(w) ? -INFINITY : w;
  if (router.groups > 1) {
    leave_best_groups(router, s);
  } else {
    s.order.resize(count);
    std::iota(s.order.begin(), s.order.end(), 0);
  }
  std::partial_sort(s.order.begin(), s.order.begin() + router.top_k, s.order.end(), [&](int32_t a, int32_t b) {
    const double left = s.worth[size_t(a)], right = s.worth[size_t(b)];
    return left != right ? left > right : a < b;
  });
  double sum = router.beside_sum;
  s.chosen.resize(top_k);
  for (size_t j = 0; j < top_k; ++j) {
    const size_t e = size_t(s.order[j]);
    s.chosen[j] = lost ? double(NAN) : by_logits && router.normalise ? score(e) : s.scores[e];
    sum += s.chosen[j];
  }
  for (size_t j = 0; j < top_k; ++j) {
    experts[j] = s.order[j];
    const double of_expert = router.expert_scale ? double(data(router.expert_scale)[s.order[j]]) : 1;
    weights[j] = float(s.chosen[j] / (router.normalise ? sum : 1) * double(router.scale) * of_expert);
  }
}

}  // namespace

Routing CpuOps::route(const Tensor& logits, const RouterParams& router) {
  const int rows = logits.rows(), top_k = router.top_k;
  BB_CHECK(logits.cols() == router.experts && router.experts % router.groups == 0 &&
               top_k <= router.experts / router.groups * router.top_groups,
           top_k, " of ", router.experts, " in ", router.groups, " groups");
  Routing routing{memory_->make(rows, top_k, DType::i32), memory_->make(rows, top_k),
                  memory_->make(rows, top_k, DType::i32)};
  int32_t* const experts = elements<int32_t>(routing.experts);
  const float* const bias = router.bias ? data(router.bias) : nullptr;
  for_rows(rows, router.experts * 32, [&](int r) {
    thread_local RouteScratch scratch;
    route_row(row(logits, r), router, bias, scratch, experts + size_t(r) * size_t(top_k), row(routing.weights, r));
  });
  // A counting sort keeps rows in order.
  const size_t assignments = size_t(rows) * size_t(top_k);
  std::vector<int32_t> next(size_t(router.experts) + 1, 0);
  for (size_t i = 0; i < assignments; ++i) ++next[size_t(experts[i]) + 1];
  std::partial_sum(next.begin(), next.end(), next.begin());
  int32_t* const order = elements<int32_t>(routing.order);
  for (size_t i = 0; i < assignments; ++i) order[i] = next[size_t(experts[i])]++;
  return routing;
}

CpuOps::ExpertPlan CpuOps::plan_experts(const Routing& routing, int experts) const {
  const int top_k = routing.experts.cols(), count = routing.experts.rows() * top_k;
  const int32_t* const expert = elements<int32_t>(routing.experts);
  const int32_t* const order = elements<int32_t>(routing.order);
  ExpertPlan plan;
  plan.assigned = order;
  plan.top_k = top_k;
  std::vector<int> counts(size_t(experts), 0);
  for (int i = 0; i < count; ++i) ++counts[size_t(expert[i])];
  plan.run_of.resize(size_t(count));
  plan.row_of.resize(size_t(count));
  int first = 0;
  for (int e = 0; e < experts; ++e) {
    const int size = counts[size_t(e)];
    if (size == 0) continue;
    ExpertRun run{.expert = e, .first = first, .count = size, .place = 0, .many = size > k_.direct_rows};
    int& placed = run.many ? plan.many : plan.few;
    run.place = placed;
    placed += size;
    std::fill_n(plan.run_of.begin() + first, size, int(plan.runs.size()));
    first += size;
    plan.runs.push_back(run);
  }
  for (int i = 0; i < count; ++i) plan.row_of[size_t(order[i])] = i / top_k;
  return plan;
}

void CpuOps::quantize_experts(const Tensor& x, ExpertRows rows, const ExpertPlan& plan, const QuantLayout& layout) {
  const int cols = x.cols();
  QuantizedInt8 &few = expert_input_.few.of(layout), &many = expert_input_.many.of(layout);
  few.make_room(expert_input_.one ? 1 : plan.few, cols, false, k_);
  many.make_room(plan.many, cols, true, k_);
  if (expert_input_.one) return k_.quantize(row(x, 0), 0, cols, cols, layout, few.row_of_run(0, 1, 0));
  const auto place = [&](int assignment) {
    const ExpertRun& run = plan.runs[size_t(plan.run_of[size_t(assignment)])];
    return (run.many ? many : few).row_of_run(run.place, run.count, assignment - run.first);
  };
  if (rows == ExpertRows::assignments)
    return for_rows(x.rows(), cols, [&](int a) { k_.quantize(row(x, a), 0, cols, cols, layout, place(a)); });
  // A row of the batch is rounded once for either kind of run, and copied for the others.
  for_rows(x.rows(), cols * 2, [&](int r) {
    QuantRow done[2];
    for (int j = 0; j < plan.top_k; ++j) {
      const QuantRow to = place(plan.assigned[size_t(r) * size_t(plan.top_k) + size_t(j)]);
      QuantRow& first = done[to.by_lane ? 1 : 0];
      if (first.values != nullptr) {
        (to.by_lane ? many : few).copy(first, to);
      } else {
        k_.quantize(row(x, r), 0, cols, cols, layout, to);
        first = to;
      }
    }
  });
}

void CpuOps::prepare_experts(const Tensor& x, ExpertRows rows, const ExpertPlan& plan,
                             std::span<const Weight* const> stacks) {
  ExpertInput& input = expert_input_;
  input.one = rows == ExpertRows::batch && x.rows() == 1;
  const int count = input.one ? 1 : int(plan.row_of.size()), cols = x.cols();
  const auto source = [&](int assignment) {
    return rows == ExpertRows::batch ? row(x, plan.row_of[size_t(assignment)]) : row(x, assignment);
  };
  bool floats = false, bf16 = false;
  std::vector<QuantLayout> layouts;
  for (const Weight* stack : stacks) {
    const WeightRows& w = rows_of(*stack, 0);
    if (fast_ && uses_int8(w)) {
      if (std::find(layouts.begin(), layouts.end(), quant_layout(w)) == layouts.end())
        layouts.push_back(quant_layout(w));
    } else {
      (fast_ && uses_bf16(w) ? bf16 : floats) = true;
    }
  }
  for (const QuantLayout& layout : layouts) quantize_experts(x, rows, plan, layout);
  if (bf16) {
    input.bf16.resize(size_t(count) * size_t(cols));
    for_rows(count, cols, [&](int assignment) {
      k_.round_bf16(source(assignment), cols, input.bf16.data() + size_t(assignment) * size_t(cols));
    });
  }
  if (!floats) return;
  if (input.one || rows == ExpertRows::assignments) {
    input.floats = x;
  } else {
    input.floats = memory_->make(count, cols);
    for_rows(count, cols,
             [&](int assignment) { std::copy_n(source(assignment), cols, cpu::row(input.floats, assignment)); });
  }
}

CpuOps::ProductRows CpuOps::rows_of_run(const ExpertRun& run, const WeightRows& w) const {
  const ExpertInput& input = expert_input_;
  const int first = input.one ? 0 : run.first;
  ProductRows rows{.floats = {}, .int8 = {}, .bf16 = nullptr, .bf16_stride = size_t(w.in), .count = run.count};
  if (fast_ && uses_int8(w)) {
    const QuantizedInput& quantized = run.many ? input.many : input.few;
    for (const QuantizedInt8& q : quantized.int8) {
      if (q.layout == quant_layout(w)) rows.int8 = q.run(input.one ? 0 : run.place);
    }
  } else if (fast_ && uses_bf16(w)) {
    rows.bf16 = input.bf16.data() + size_t(first) * size_t(w.in);
  } else {
    rows.floats = {row(input.floats, first), size_t(w.in)};
  }
  return rows;
}

void CpuOps::matmul_experts(const Tensor& x, ExpertRows rows, const Routing& routing,
                            std::span<const Weight* const> stacks, std::span<Tensor> y) {
  const ExpertPlan plan = plan_experts(routing, stacks.front()->experts);
  for (size_t s = 0; s < stacks.size(); ++s) {
    BB_CHECK(stacks[s]->in == x.cols() && stacks[s]->experts == stacks.front()->experts, "in ", stacks[s]->in);
    y[s] = memory_->make(int(plan.row_of.size()), stacks[s]->out);
  }
  prepare_experts(x, rows, plan, stacks);
  const int each = int(stacks.size());
  int64_t outs = 0;
  for (const Weight* stack : stacks) outs += int64_t{stack->out} * int64_t(plan.runs.size());
  const CostPartition partition(
      partition_, int(plan.runs.size()) * each, [&](int t) { return stacks[size_t(t % each)]->out; },
      [&](int t) { return kReadCost + plan.runs[size_t(t / each)].count; });
  const int pieces = pieces_of(outs, kInt8Cols);
  threads_.run_pieces(pieces, [&](int part, int piece, int thread) {
    partition.each({part, piece, pieces}, [&](int t, int first, int last) {
      const ExpertRun& run = plan.runs[size_t(t / each)];
      const Tensor& to = y[size_t(t % each)];
      const WeightRows& w = rows_of(*stacks[size_t(t % each)], run.expert);
      multiply(rows_of_run(run, w), w, row(to, run.first), size_t(to.cols()), first, last, thread);
    });
  });
  expert_input_.floats = {};
}

void CpuOps::add_expert_bias(Tensor& y, const Routing& routing, const Tensor& bias) {
  y = make_writable(y);
  forget_quantized(y);
  const int32_t* const experts = elements<int32_t>(routing.experts);
  const int32_t* const order = elements<int32_t>(routing.order);
  for_rows(y.rows(), y.cols(),
           [&](int i) { k_.add(row(y, order[i]), data(bias) + size_t(experts[i]) * size_t(y.cols()), y.cols()); });
}

Tensor CpuOps::sum_experts(const Tensor& y, const Routing& routing) {
  const int rows = routing.experts.rows(), top_k = routing.experts.cols(), cols = y.cols();
  Tensor sum = memory_->make(rows, cols);
  const int32_t* const order = elements<int32_t>(routing.order);
  for_rows(rows, cols * top_k, [&](int r) {
    float* const to = row(sum, r);
    for (int j = 0; j < top_k; ++j) {
      const float weight = row(routing.weights, r)[j];
      const float* const term = row(y, order[size_t(r) * size_t(top_k) + size_t(j)]);
      if (j == 0) {
        std::copy_n(term, cols, to);
        k_.scale(to, weight, cols);
      } else {
        k_.add_scaled(to, term, weight, cols);
      }
    }
  });
  return sum;
}

Tensor CpuOps::gate_rows(Tensor y, const Tensor& gate) {
  y = make_writable(y);
  forget_quantized(y);
  for_rows(y.rows(), y.cols(), [&](int r) { k_.scale(row(y, r), float(sigmoid(double(*row(gate, r)))), y.cols()); });
  return y;
}

}  // namespace bumblebee::cpu
