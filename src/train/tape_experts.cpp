// The words with experts: y = Σ w·(down(act(gate x)·up x)), each of the three with factors for every expert. Rows lie
// by assignment from the first product to the sum, those of one expert together: its factors meet a slice. What is kept
// for the way back is the choice, gate and up, the experts' answers and A x.
#include <utility>

#include "base/error.h"
#include "train/tape_pass.h"

namespace bumblebee::train {

namespace {
constexpr auto kAsIs = GradOps::Op::plain, kTurned = GradOps::Op::transposed;
}

std::vector<TapePass::ExpertRun> TapePass::runs_of(const Routing& routing, int experts) const {
  std::vector<int32_t> chosen(size_t(routing.experts.rows()) * size_t(routing.experts.cols()));
  backend_.read_bytes(routing.experts, std::as_writable_bytes(std::span(chosen)));
  std::vector<int> counts(size_t(experts), 0);
  for (const int32_t e : chosen) ++counts[size_t(e)];
  std::vector<ExpertRun> runs;
  int first = 0;
  for (int e = 0; e < experts; ++e) {
    if (counts[size_t(e)] > 0) runs.push_back({e, first, counts[size_t(e)]});
    first += counts[size_t(e)];
  }
  return runs;
}

/// Rows of one expert's factors in the tensor of all.
Tensor TapePass::of_expert(const Tensor& factors, int expert, int experts) {
  const int rows = factors.rows() / experts;
  return factors.slice_rows(expert * rows, rows);
}

Tensor TapePass::expert_input(const Tensor& x, ExpertRows rows, const Routing& routing, int site) const {
  return rows == ExpertRows::batch ? grad_.spread_rows(dropped(x, site), routing) : dropped(x, site);
}

void TapePass::apply_experts(const Tensor& x, ExpertRows rows, const ExpertStep& step, ExpertTerm& term, Tensor& y) {
  if (term.module == nullptr) return;
  const TrainedModule& m = *term.module;
  const Tensor operand = expert_input(x, rows, step.routing, m.site);
  term.u = backend_.make(operand.rows(), m.b.cols());
  for (const ExpertRun& run : step.runs) {
    Tensor u = term.u.slice_rows(run.first, run.count), out = y.slice_rows(run.first, run.count);
    grad_.gemm(1, operand.slice_rows(run.first, run.count), kAsIs, of_expert(m.a, run.expert, m.experts), kTurned, 0,
               u);
    grad_.gemm(params_.scale(), u, kAsIs, of_expert(m.b, run.expert, m.experts), kTurned, 1, out);
  }
}

void TapePass::expert_module_back(const Tensor& x, ExpertRows rows, const ExpertStep& step, const ExpertTerm& term,
                                  const Tensor& dy, Tensor* through) {
  const TrainedModule& m = *term.module;
  const Tensor operand = expert_input(x, rows, step.routing, m.site);
  if (through != nullptr) *through = backend_.make(operand.rows(), operand.cols());
  for (const ExpertRun& run : step.runs) {
    const auto own = [&](const Tensor& t) { return t.slice_rows(run.first, run.count); };
    const Tensor slopes = own(dy);
    Tensor t, da, db;  // t = scale·dy·B
    grad_.gemm(params_.scale(), slopes, kAsIs, of_expert(m.b, run.expert, m.experts), kAsIs, 0, t);
    grad_.gemm(1, t, kTurned, own(operand), kAsIs, 0, da);
    add_gradient(da, of_expert(m.da, run.expert, m.experts));
    grad_.gemm(params_.scale(), slopes, kTurned, own(term.u), kAsIs, 0, db);
    add_gradient(db, of_expert(m.db, run.expert, m.experts));
    if (through == nullptr) continue;
    Tensor dx = own(*through);
    grad_.gemm(1, t, kAsIs, of_expert(m.a, run.expert, m.experts), kAsIs, 0, dx);
  }
}

/// The gradient of what the products of `terms` share, by its own rows: through the weights and through the factors.
Tensor TapePass::expert_products_back(const Tensor& x, ExpertRows rows, const ExpertStep& step,
                                      std::span<const ExpertTerm> terms, std::span<const Tensor> dy, bool x_needed) {
  Tensor dx;
  if (x_needed) {
    std::vector<const Weight*> weights;
    for (const ExpertTerm& term : terms) weights.push_back(&term.stack->w);
    dx = grad_.matmul_experts_dx(dy, weights, step.routing);
  }
  const auto folded = [&](Tensor by_assignment) {
    return rows == ExpertRows::batch ? grad_.spread_rows_dx(by_assignment, step.routing) : by_assignment;
  };
  std::vector<std::pair<int, Tensor>> masked;  // by site: what dropout lets through
  for (size_t i = 0; i < terms.size(); ++i) {
    if (terms[i].module == nullptr) continue;
    Tensor through;
    expert_module_back(x, rows, step, terms[i], dy[i], x_needed ? &through : nullptr);
    if (!x_needed) continue;
    if (params_.dropout() == 0) {
      grad_.axpy(1, through, dx);
    } else {
      masked.emplace_back(terms[i].module->site, folded(std::move(through)));
    }
  }
  if (!x_needed) return {};
  dx = folded(std::move(dx));
  for (const auto& [site, through] : masked) grad_.axpy(1, dropped(through, site), dx);
  return dx;
}

Tensor TapePass::experts(const Tensor& x, const Tensor& scores, const nn::Experts& experts) {
  ExpertStep step{.routing = ops_.route(scores, experts.router), .runs = {}};
  std::vector<ExpertTerm> wide = {{&experts.gate, params_.at(experts.gate.site), {}},
                                  {&experts.up, params_.at(experts.up.site), {}}};
  ExpertTerm down{&experts.down, params_.at(experts.down.site), {}};
  const bool trains_wide = wide[0].module != nullptr || wide[1].module != nullptr;
  if (trains_wide || down.module != nullptr) step.runs = runs_of(step.routing, experts.router.experts);

  const Weight* const into[] = {&experts.gate.w, &experts.up.w};
  std::vector<Tensor> inner(2);
  ops_.matmul_experts(x, ExpertRows::batch, step.routing, into, inner);
  const auto add_bias = [&](Tensor& to, const nn::ExpertLinear& linear) {
    if (linear.bias) ops_.add_expert_bias(to, step.routing, linear.bias);
  };
  for (size_t i = 0; i < 2; ++i) {
    apply_experts(x, ExpertRows::batch, step, wide[i], inner[i]);
    add_bias(inner[i], *wide[i].stack);
  }
  Tensor h = ops_.glu(experts.activation, inner[0], inner[1]);
  const Weight* const out_of = &experts.down.w;
  Tensor y;
  ops_.matmul_experts(h, ExpertRows::assignments, step.routing, {&out_of, 1}, {&y, 1});
  apply_experts(h, ExpertRows::assignments, step, down, y);
  add_bias(y, experts.down);
  h = {};
  Tensor sum = ops_.sum_experts(y, step.routing);
  if (!recording_) return sum;

  const bool x_needed = needs(x), scores_needed = needs(scores), inner_needed = x_needed || trains_wide;
  const bool any = inner_needed || scores_needed || down.module != nullptr;
  set_needs(sum, any);
  if (!any) return sum;
  record([=, this, &experts, again = trains_wide ? input(x) : Input{}, x_key = key(x), sum_key = key(sum)] {
    const Tensor dsum = consume(sum_key);
    if (!dsum) return;
    Tensor dy, dweights;
    grad_.sum_experts_dx(dsum, y, step.routing, dy, dweights);
    if (scores_needed) accumulate(key(scores), grad_.route_dx(dweights, scores, step.routing, experts.router));
    if (!inner_needed && down.module == nullptr) return;
    const Tensor hidden = down.module != nullptr ? ops_.glu(experts.activation, inner[0], inner[1]) : Tensor{};
    const Tensor dh = expert_products_back(hidden, ExpertRows::assignments, step, {&down, 1}, {&dy, 1}, inner_needed);
    if (!inner_needed) return;
    Tensor d[2];
    grad_.glu_dx(experts.activation, dh, inner[0], inner[1], d[0], d[1]);
    Tensor dx = expert_products_back(again ? again() : Tensor{}, ExpertRows::batch, step, wide, d, x_needed);
    if (x_needed) accumulate(x_key, std::move(dx));
  });
  return sum;
}

Tensor TapePass::gate_rows(Tensor y, const Tensor& gate) {
  Tensor out = ops_.gate_rows(y, gate);
  if (!recording_) return out;
  const bool y_needed = needs(y), gate_needed = needs(gate);
  set_needs(out, y_needed || gate_needed);
  if (!y_needed && !gate_needed) return out;
  record([=, this, out_key = key(out)] {
    const Tensor dout = consume(out_key);
    if (!dout) return;
    Tensor dy, dgate;
    grad_.gate_rows_dx(dout, y, gate, dy, dgate);
    if (y_needed) accumulate(key(y), std::move(dy));
    if (gate_needed) accumulate(key(gate), std::move(dgate));
  });
  return out;
}

}  // namespace bumblebee::train
