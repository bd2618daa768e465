// The words with factors: y = f ∘ (W x + Σ scale·B(A drop(x))) + bias, with f of DoRA or 1. What a module keeps for its
// way back is x, u = A drop(x) and, with DoRA, y; masks of dropout are made again from their key.
#include <array>
#include <utility>

#include "base/error.h"
#include "train/tape_pass.h"

namespace bumblebee::train {

namespace {
constexpr auto kPlain = GradOps::Op::plain, kTransposed = GradOps::Op::transposed;
}

Tensor TapePass::dropped(const Tensor& x, int site) const {
  if (!options_.learn || params_.dropout() == 0) return x;
  return grad_.dropout(x, params_.dropout(), {.seed = options_.seed, .step = options_.step, .site = uint32_t(site)});
}

void TapePass::apply(const Tensor& x, Term& term, Tensor& y) {
  const int site = term.linear->site;
  for (const FrozenTerm& frozen : params_.frozen(site)) {
    Tensor u;
    grad_.gemm(1, x, kPlain, frozen.a, kTransposed, 0, u);
    grad_.gemm(frozen.scale, u, kPlain, frozen.b, kTransposed, 1, y);
  }
  if (term.module == nullptr) return;
  grad_.gemm(1, dropped(x, site), kPlain, term.module->a, kTransposed, 0, term.u);
  grad_.gemm(params_.scale(), term.u, kPlain, term.module->b, kTransposed, 1, y);
  if (!term.module->dora_scale) return;
  grad_.multiply_columns(y, term.module->dora_scale);
  term.scaled = y;
  if (!term.linear->bias) return;
  y = ops_.copy(y);
  grad_.add_row(y, term.linear->bias);
}

/// Added as a whole, so that the sum over batches has one order whatever the product's is.
void TapePass::add_gradient(const Tensor& gradient, const Tensor& sum) {
  const AxpbyTerm term = {.y = sum, .x = gradient};
  grad_.axpby({&term, 1});
}

TapePass::Input TapePass::input(const Tensor& x) const {
  const auto found = recompute_.find(key(x));
  if (found != recompute_.end()) return found->second;
  return [x] { return x; };
}

void TapePass::linear(const Tensor& x, std::span<const nn::Linear* const> linears, std::span<Tensor> y) {
  std::array<MatmulTerm, 4> products;
  BB_CHECK(linears.size() <= products.size());
  std::vector<Term> terms(linears.size());
  for (size_t i = 0; i < linears.size(); ++i) {
    terms[i].linear = linears[i];
    terms[i].module = params_.at(linears[i]->site);
    const bool bias_later = terms[i].module != nullptr && terms[i].module->dora_scale;
    products[i] = {&linears[i]->w, linears[i]->bias && !bias_later ? &linears[i]->bias : nullptr};
  }
  ops_.matmul(x, std::span<const MatmulTerm>(products.data(), linears.size()), y);
  const bool x_needed = recording_ && needs(x);
  bool any = false, any_module = false;
  for (size_t i = 0; i < linears.size(); ++i) {
    Term& term = terms[i];
    apply(x, term, y[i]);
    term.y = key(y[i]);
    term.needed = x_needed || term.module != nullptr;
    any = any || term.needed;
    any_module = any_module || term.module != nullptr;
    if (recording_) set_needs(y[i], term.needed);
  }
  if (!recording_ || !any) return;
  // Without trained factors the way back needs no x.
  record([this, again = any_module ? input(x) : Input{}, x_key = key(x), x_needed, terms = std::move(terms)]() mutable {
    linear_back(again ? again() : Tensor{}, x_key, x_needed, terms);
  });
}

void TapePass::linear_back(const Tensor& x, Key x_key, bool x_needed, std::vector<Term>& terms) {
  std::vector<Tensor> dy;
  std::vector<const Weight*> weights;
  std::vector<Term*> live;
  for (Term& term : terms) {
    Tensor gradient = term.needed ? consume(term.y) : Tensor{};
    if (!gradient) continue;
    if (term.module != nullptr && term.module->dora_scale) {
      // y = f∘z, f = m/|...|: Σ dy·y = m·df/dm.
      const Tensor dots = grad_.column_dots(gradient, term.scaled);
      grad_.divide({&dots, 1}, {&term.module->m, 1});
      add_gradient(dots, term.module->dm);
      gradient = ops_.copy(gradient);
      grad_.multiply_columns(gradient, term.module->dora_scale);
    }
    dy.push_back(std::move(gradient));
    weights.push_back(&term.linear->w);
    live.push_back(&term);
  }
  if (live.empty()) return;
  Tensor dx = x_needed ? grad_.matmul_dx(dy, weights) : Tensor{};
  for (size_t i = 0; i < live.size(); ++i) {
    const int site = live[i]->linear->site;
    if (x_needed) {
      for (const FrozenTerm& frozen : params_.frozen(site)) {
        Tensor t;
        grad_.gemm(frozen.scale, dy[i], kPlain, frozen.b, kPlain, 0, t);
        grad_.gemm(1, t, kPlain, frozen.a, kPlain, 1, dx);
      }
    }
    if (live[i]->module != nullptr) module_back(x, *live[i], dy[i], dx);
  }
  if (x_needed) accumulate(x_key, std::move(dx));
}

void TapePass::module_back(const Tensor& x, Term& term, const Tensor& dy, Tensor& dx) {
  TrainedModule& module = *term.module;
  Tensor t, da, db;  // t = scale·dy·B [rows, rank]
  grad_.gemm(params_.scale(), dy, kPlain, module.b, kPlain, 0, t);
  grad_.gemm(1, t, kTransposed, dropped(x, module.site), kPlain, 0, da);
  add_gradient(da, module.da);
  grad_.gemm(params_.scale(), dy, kTransposed, term.u, kPlain, 0, db);
  add_gradient(db, module.db);
  if (!dx) return;
  if (params_.dropout() == 0) {
    grad_.gemm(1, t, kPlain, module.a, kPlain, 1, dx);
    return;
  }
  Tensor through;
  grad_.gemm(1, t, kPlain, module.a, kPlain, 0, through);
  grad_.axpy(1, dropped(through, module.site), dx);
}

}  // namespace bumblebee::train
