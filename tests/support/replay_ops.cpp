// One closure per operation. Handles are captured as they are; what they stand for is looked up when the tape is
// played.
#include "tests/support/replay_ops.h"

#include <limits>
#include <utility>

#include "backend/ref/ref_tensor.h"
#include "base/error.h"

namespace bumblebee::testing_support {

void poison(const Tensor& tensor) {
  for (int r = 0; r < tensor.rows(); ++r) {
    if (tensor.dtype() == DType::i32) {
      for (int32_t& v : ref::ints(tensor, r)) v = std::numeric_limits<int32_t>::min();
    } else {
      for (double& v : ref::row(tensor, r)) v = std::numeric_limits<double>::quiet_NaN();
    }
  }
}

Tensor ReplayOps::resolve(const Values& values, const Tensor& handle) {
  const Recorded* number = handle ? recorded(handle) : nullptr;
  if (number == nullptr) return handle;
  const Tensor& whole = values.at(size_t(number->number));
  BB_CHECK(whole, "value ", number->number, " was replaced, and is used again");
  if (handle.offset_bytes() == 0 && handle.rows() == whole.rows()) return whole;
  return whole.slice_rows(int(handle.offset_bytes() / (size_t(handle.cols()) * size_t(size_of(handle.dtype())))),
                          handle.rows());
}

Tensor ReplayOps::fresh(int rows, int cols, DType dtype) {
  return Tensor(std::make_shared<Recorded>(tape_->values++), dtype, rows, cols);
}

Tensor ReplayOps::made(Tensor tensor) {
  if (tensor) made_.push_back(tensor.buffer());
  return tensor;
}

void ReplayOps::end_eager(const StepOutputs& kept) {
  const auto is_kept = [&](const Buffer* buffer) {
    for (const Tensor* t :
         {&kept.logits, &kept.hidden, &kept.sampled.ids, &kept.sampled.logprobs, &kept.sampled.top_ids}) {
      if (t->buffer().get() == buffer) return true;
    }
    return false;
  };
  for (const std::weak_ptr<Buffer>& weak : std::exchange(made_, {})) {
    const std::shared_ptr<Buffer> buffer = weak.lock();
    if (buffer == nullptr || is_kept(buffer.get())) continue;
    if (const auto doubles = std::dynamic_pointer_cast<ref::RefBuffer>(buffer))
      poison(Tensor(doubles, DType::f64, 1, int(doubles->values.size())));
  }
}

std::function<Tensor(Values&)> ReplayOps::replaced(const Tensor& x) const {
  const bool alone = x.unique() && recorded(x) != nullptr;
  if (!alone) return [x](Values& values) { return resolve(values, x); };  // somebody else holds it: it will be copied
  return [number = recorded(x)->number](Values& values) { return std::exchange(values.at(size_t(number)), {}); };
}

Tensor ReplayOps::embed(const Weight& table) {
  if (tape_ == nullptr) return made(inner_.embed(table));
  const Tensor y = fresh(rows_, table.in);
  tape_->operations.push_back(
      [this, table, n = recorded(y)->number](Values& v) { v[size_t(n)] = inner_.embed(table); });
  return y;
}

void ReplayOps::matmul(const Tensor& x, std::span<const MatmulTerm> terms, std::span<Tensor> y) {
  if (tape_ == nullptr) {
    inner_.matmul(x, terms, y);
    for (Tensor& t : y) made(t);
    return;
  }
  struct Term {
    Weight weight;
    std::optional<Tensor> bias;
    int y;
  };
  std::vector<Term> held;
  for (size_t i = 0; i < terms.size(); ++i) {
    y[i] = fresh(x.rows(), terms[i].weight->out);
    held.push_back(
        {*terms[i].weight, terms[i].bias ? std::optional(*terms[i].bias) : std::nullopt, recorded(y[i])->number});
  }
  tape_->operations.push_back([this, x, held](Values& v) {
    std::vector<MatmulTerm> again;
    std::vector<Tensor> out(held.size());
    for (const Term& term : held) again.push_back({&term.weight, term.bias ? &*term.bias : nullptr});
    inner_.matmul(resolve(v, x), again, out);
    for (size_t i = 0; i < held.size(); ++i) v[size_t(held[i].y)] = std::move(out[i]);
  });
}

void ReplayOps::lora(const Tensor& x, RowSet rows, std::span<const LoraModule> modules, std::span<Tensor> y) {
  if (tape_ == nullptr) {
    inner_.lora(x, rows, modules, y);
    for (Tensor& t : y) made(t);
    return;
  }
  struct Module {
    LoraModule module;
    std::optional<Tensor> bias;
    std::function<Tensor(Values&)> y;  // before; null: made anew
    int out = 0;
  };
  std::vector<Module> held;
  for (size_t i = 0; i < modules.size(); ++i) {
    Module m{modules[i], modules[i].bias ? std::optional(*modules[i].bias) : std::nullopt, nullptr, 0};
    int cols = 0;
    if (modules[i].replaced) {
      // The shape follows from the weights that rows bring, which a pass cannot see; of one shape they all are.
      BB_CHECK(!y[i]);
      cols = -1;
    } else {
      m.y = replaced(y[i]);
      cols = y[i].cols();
    }
    y[i] = fresh(x.rows(), cols);
    m.out = recorded(y[i])->number;
    held.push_back(std::move(m));
  }
  tape_->operations.push_back([this, x, rows, held](Values& v) {
    std::vector<LoraModule> again;
    std::vector<Tensor> out;
    for (const Module& m : held) {
      again.push_back(m.module);
      again.back().bias = m.bias ? &*m.bias : nullptr;
      out.push_back(m.y ? m.y(v) : Tensor());
    }
    inner_.lora(resolve(v, x), rows, again, out);
    for (size_t i = 0; i < held.size(); ++i) v[size_t(held[i].out)] = std::move(out[i]);
  });
}

void ReplayOps::lora_embed(int site, Tensor& y) {
  if (tape_ == nullptr) {
    inner_.lora_embed(site, y);
    made(y);
    return;
  }
  auto before = replaced(y);
  y = fresh(y.rows(), y.cols());
  tape_->operations.push_back([this, site, before, n = recorded(y)->number](Values& v) {
    Tensor t = before(v);
    inner_.lora_embed(site, t);
    v[size_t(n)] = std::move(t);
  });
}

Tensor ReplayOps::lora_norm(const Tensor& x, RowSet rows, int width, const NormParams& norm, int site) {
  if (tape_ == nullptr) return made(inner_.lora_norm(x, rows, width, norm, site));
  const Tensor y = fresh(x.rows(), x.cols());
  tape_->operations.push_back([=, this, n = recorded(y)->number](Values& v) {
    v[size_t(n)] = inner_.lora_norm(resolve(v, x), rows, width, norm, site);
  });
  return y;
}

Tensor ReplayOps::rms_norm(const Tensor& x, const NormParams& norm) {
  if (tape_ == nullptr) return made(inner_.rms_norm(x, norm));
  const Tensor y = fresh(x.rows(), x.cols());
  tape_->operations.push_back(
      [=, this, n = recorded(y)->number](Values& v) { v[size_t(n)] = inner_.rms_norm(resolve(v, x), norm); });
  return y;
}

Tensor ReplayOps::add_rms_norm(Tensor& x, Tensor delta, const NormParams& norm) {
  if (tape_ == nullptr) {
    Tensor y = made(inner_.add_rms_norm(x, delta, norm));
    made(x);
    return y;
  }
  auto before = replaced(x);
  x = fresh(x.rows(), x.cols());
  const Tensor y = fresh(x.rows(), x.cols());
  tape_->operations.push_back([=, this, n = recorded(x)->number, m = recorded(y)->number](Values& v) {
    Tensor t = before(v);
    v[size_t(m)] = inner_.add_rms_norm(t, resolve(v, delta), norm);
    v[size_t(n)] = std::move(t);
  });
  return y;
}

void ReplayOps::add(Tensor& x, Tensor delta) {
  if (tape_ == nullptr) {
    inner_.add(x, delta);
    made(x);
    return;
  }
  auto before = replaced(x);
  x = fresh(x.rows(), x.cols());
  tape_->operations.push_back([=, this, n = recorded(x)->number](Values& v) {
    Tensor t = before(v);
    inner_.add(t, resolve(v, delta));
    v[size_t(n)] = std::move(t);
  });
}

void ReplayOps::norm_rope(Tensor& q, Tensor& k, int head_dim, const NormParams* q_norm, const NormParams* k_norm,
                          const RopeParams& rope) {
  if (tape_ == nullptr) {
    inner_.norm_rope(q, k, head_dim, q_norm, k_norm, rope);
    made(q);
    made(k);
    return;
  }
  auto q_before = replaced(q), k_before = k ? replaced(k) : nullptr;
  q = fresh(q.rows(), q.cols());
  if (k) k = fresh(k.rows(), k.cols());
  const auto held = [](const NormParams* norm) {
    return norm != nullptr ? std::make_shared<const NormParams>(*norm) : nullptr;
  };
  tape_->operations.push_back([=, this, q_held = held(q_norm), k_held = held(k_norm), n = recorded(q)->number,
                               m = k ? recorded(k)->number : -1](Values& v) {
    Tensor a = q_before(v), b = k_before ? k_before(v) : Tensor();
    inner_.norm_rope(a, b, head_dim, q_held.get(), k_held.get(), rope);
    v[size_t(n)] = std::move(a);
    if (m >= 0) v[size_t(m)] = std::move(b);
  });
}

Tensor ReplayOps::attend(KvStore& kv, int layer, const Tensor& q, const Tensor& k, const Tensor& v,
                         const AttentionParams& attention) {
  if (tape_ == nullptr) return made(inner_.attend(kv, layer, q, k, v, attention));
  const Tensor y = fresh(q.rows(), attention.heads * attention.values());
  tape_->operations.push_back([this, &kv, layer, q, k, v, attention, n = recorded(y)->number](Values& values) {
    values[size_t(n)] = inner_.attend(kv, layer, resolve(values, q), resolve(values, k), resolve(values, v), attention);
  });
  return y;
}

void ReplayOps::split(const Tensor& x, const SplitParams& split, std::span<Tensor> y) {
  if (tape_ == nullptr) {
    inner_.split(x, split, y);
    for (Tensor& t : y) made(t);
    return;
  }
  std::vector<int> cols(y.size(), 0), numbers;
  for (const SplitParams::Piece& piece : split.pieces) cols[size_t(piece.to)] += piece.cols * split.groups;
  for (size_t i = 0; i < y.size(); ++i) {
    y[i] = fresh(x.rows(), cols[i]);
    numbers.push_back(recorded(y[i])->number);
  }
  tape_->operations.push_back([this, x, split, numbers](Values& v) {
    std::vector<Tensor> out(numbers.size());
    inner_.split(resolve(v, x), split, out);
    for (size_t i = 0; i < numbers.size(); ++i) v[size_t(numbers[i])] = std::move(out[i]);
  });
}

Tensor ReplayOps::causal_conv(KvStore& kv, int layer, const Tensor& x, const ConvParams& conv) {
  if (tape_ == nullptr) return made(inner_.causal_conv(kv, layer, x, conv));
  const Tensor y = fresh(x.rows(), x.cols());
  tape_->operations.push_back([this, &kv, layer, x, conv, n = recorded(y)->number](Values& v) {
    v[size_t(n)] = inner_.causal_conv(kv, layer, resolve(v, x), conv);
  });
  return y;
}

Tensor ReplayOps::delta_rule(KvStore& kv, int layer, const Tensor& qkv, const Tensor& a, const Tensor& b,
                             const DeltaParams& delta) {
  if (tape_ == nullptr) return made(inner_.delta_rule(kv, layer, qkv, a, b, delta));
  const Tensor y = fresh(qkv.rows(), delta.value_cols());
  tape_->operations.push_back([this, &kv, layer, qkv, a, b, delta, n = recorded(y)->number](Values& v) {
    v[size_t(n)] = inner_.delta_rule(kv, layer, resolve(v, qkv), resolve(v, a), resolve(v, b), delta);
  });
  return y;
}

Tensor ReplayOps::glu(Activation activation, Tensor gate, Tensor up) {
  if (tape_ == nullptr) return made(inner_.glu(activation, gate, up));
  const Tensor y = fresh(gate.rows(), gate.cols());
  tape_->operations.push_back([=, this, n = recorded(y)->number](Values& v) {
    v[size_t(n)] = inner_.glu(activation, resolve(v, gate), resolve(v, up));
  });
  return y;
}

void ReplayOps::multiply(Tensor& x, float factor) {
  in_place(x, [this, factor](Tensor& t) { inner_.multiply(t, factor); });
}

void ReplayOps::soft_cap(Tensor& x, float cap) {
  in_place(x, [this, cap](Tensor& t) { inner_.soft_cap(t, cap); });
}

void ReplayOps::in_place(Tensor& x, std::function<void(Tensor&)> change) {
  if (tape_ == nullptr) {
    change(x);
    made(x);
    return;
  }
  auto before = replaced(x);
  x = fresh(x.rows(), x.cols());
  tape_->operations.push_back([before, change, n = recorded(x)->number](Values& v) {
    Tensor t = before(v);
    change(t);
    v[size_t(n)] = std::move(t);
  });
}

Tensor ReplayOps::columns(const Tensor& x, int first, int count) {
  if (tape_ == nullptr) return made(inner_.columns(x, first, count));
  const Tensor y = fresh(x.rows(), count);
  tape_->operations.push_back([this, x, first, count, n = recorded(y)->number](Values& v) {
    v[size_t(n)] = inner_.columns(resolve(v, x), first, count);
  });
  return y;
}

Tensor ReplayOps::matmul_heads(const Tensor& x, const Weight& heads, bool transposed, int rest) {
  if (tape_ == nullptr) return made(inner_.matmul_heads(x, heads, transposed, rest));
  const Tensor y = fresh(x.rows(), heads.experts * ((transposed ? heads.in : heads.out) + rest));
  tape_->operations.push_back([this, x, heads, transposed, rest, n = recorded(y)->number](Values& v) {
    v[size_t(n)] = inner_.matmul_heads(resolve(v, x), heads, transposed, rest);
  });
  return y;
}

void ReplayOps::lora_heads(const Tensor& x, int site, int heads, int rest, Tensor& y) {
  if (tape_ == nullptr) {
    inner_.lora_heads(x, site, heads, rest, y);
    made(y);
    return;
  }
  auto before = replaced(y);
  y = fresh(y.rows(), y.cols());
  tape_->operations.push_back([=, this, n = recorded(y)->number](Values& v) {
    Tensor t = before(v);
    inner_.lora_heads(resolve(v, x), site, heads, rest, t);
    v[size_t(n)] = std::move(t);
  });
}

Routing ReplayOps::resolve(const Values& values, const Routing& handles) {
  return {resolve(values, handles.experts), resolve(values, handles.weights), resolve(values, handles.order)};
}

Routing ReplayOps::route(const Tensor& logits, const RouterParams& router) {
  if (tape_ == nullptr) {
    Routing routing = inner_.route(logits, router);
    made(routing.weights);
    return routing;
  }
  const Routing out{fresh(logits.rows(), router.top_k, DType::i32), fresh(logits.rows(), router.top_k),
                    fresh(logits.rows(), router.top_k, DType::i32)};
  tape_->operations.push_back([this, logits, router, out](Values& v) {
    Routing routing = inner_.route(resolve(v, logits), router);
    v[size_t(recorded(out.experts)->number)] = std::move(routing.experts);
    v[size_t(recorded(out.weights)->number)] = std::move(routing.weights);
    v[size_t(recorded(out.order)->number)] = std::move(routing.order);
  });
  return out;
}

void ReplayOps::matmul_experts(const Tensor& x, ExpertRows rows, const Routing& routing,
                               std::span<const Weight* const> stacks, std::span<Tensor> y) {
  if (tape_ == nullptr) {
    inner_.matmul_experts(x, rows, routing, stacks, y);
    for (Tensor& t : y) made(t);
    return;
  }
  std::vector<std::pair<Weight, int>> held;
  for (size_t i = 0; i < stacks.size(); ++i) {
    y[i] = fresh(routing.experts.rows() * routing.experts.cols(), stacks[i]->out);
    held.emplace_back(*stacks[i], recorded(y[i])->number);
  }
  tape_->operations.push_back([this, x, rows, routing, held](Values& v) {
    std::vector<const Weight*> again;
    std::vector<Tensor> out(held.size());
    for (const auto& [stack, number] : held) again.push_back(&stack);
    inner_.matmul_experts(resolve(v, x), rows, resolve(v, routing), again, out);
    for (size_t i = 0; i < held.size(); ++i) v[size_t(held[i].second)] = std::move(out[i]);
  });
}

void ReplayOps::add_expert_bias(Tensor& y, const Routing& routing, const Tensor& bias) {
  if (tape_ == nullptr) {
    inner_.add_expert_bias(y, routing, bias);
    made(y);
    return;
  }
  auto before = replaced(y);
  y = fresh(y.rows(), y.cols());
  tape_->operations.push_back([=, this, n = recorded(y)->number](Values& v) {
    Tensor t = before(v);
    inner_.add_expert_bias(t, resolve(v, routing), bias);
    v[size_t(n)] = std::move(t);
  });
}

void ReplayOps::lora_experts(const Tensor& x, ExpertRows rows, const Routing& routing, std::span<const int> sites,
                             std::span<Tensor> y) {
  if (tape_ == nullptr) {
    inner_.lora_experts(x, rows, routing, sites, y);
    for (Tensor& t : y) made(t);
    return;
  }
  std::vector<std::pair<std::function<Tensor(Values&)>, int>> held;  // before, and the number of what comes out
  for (Tensor& t : y) {
    const int cols = t.cols();
    std::function<Tensor(Values&)> before = replaced(t);
    t = fresh(routing.experts.rows() * routing.experts.cols(), cols);
    held.emplace_back(std::move(before), recorded(t)->number);
  }
  tape_->operations.push_back(
      [this, x, rows, routing, held, own = std::vector<int>(sites.begin(), sites.end())](Values& v) {
        std::vector<Tensor> out;
        for (const auto& [before, number] : held) out.push_back(before(v));
        inner_.lora_experts(resolve(v, x), rows, resolve(v, routing), own, out);
        for (size_t i = 0; i < held.size(); ++i) v[size_t(held[i].second)] = std::move(out[i]);
      });
}

Tensor ReplayOps::sum_experts(const Tensor& y, const Routing& routing) {
  if (tape_ == nullptr) return made(inner_.sum_experts(y, routing));
  const Tensor sum = fresh(routing.experts.rows(), y.cols());
  tape_->operations.push_back([this, y, routing, n = recorded(sum)->number](Values& v) {
    v[size_t(n)] = inner_.sum_experts(resolve(v, y), resolve(v, routing));
  });
  return sum;
}

Tensor ReplayOps::gate_rows(Tensor y, const Tensor& gate) {
  if (tape_ == nullptr) return made(inner_.gate_rows(std::move(y), gate));
  const Tensor gated = fresh(y.rows(), y.cols());
  tape_->operations.push_back([this, y, gate, n = recorded(gated)->number](Values& v) {
    Tensor own = inner_.copy(resolve(v, y));
    v[size_t(n)] = inner_.gate_rows(std::move(own), resolve(v, gate));
  });
  return gated;
}

Tensor ReplayOps::gather_rows(const Tensor& x) {
  if (tape_ == nullptr) return made(inner_.gather_rows(x));
  const Tensor y = fresh(logit_rows_, x.cols());
  tape_->operations.push_back(
      [=, this, n = recorded(y)->number](Values& v) { v[size_t(n)] = inner_.gather_rows(resolve(v, x)); });
  return y;
}

void ReplayOps::keep_logit_rows() {
  rows_ = logit_rows_;
  if (tape_ == nullptr) return inner_.keep_logit_rows();
  tape_->operations.push_back([this](Values&) { inner_.keep_logit_rows(); });
}

Sampled ReplayOps::sample(const Tensor& logits) {
  if (tape_ == nullptr) return inner_.sample(logits);
  Sampled out;
  out.ids = fresh(logits.rows(), 1, DType::i32);
  if (logprobs_ >= 0) {
    out.logprobs = fresh(logits.rows(), 1 + logprobs_);
    out.top_ids = fresh(logits.rows(), logprobs_, DType::i32);
  }
  tape_->operations.push_back([this, logits, out](Values& v) {
    Sampled s = inner_.sample(resolve(v, logits));
    BB_CHECK(bool(s.logprobs) == bool(out.logprobs), "the key does not say whether logprobs are asked for");
    v[size_t(recorded(out.ids)->number)] = std::move(s.ids);
    if (!s.logprobs) return;
    v[size_t(recorded(out.logprobs)->number)] = std::move(s.logprobs);
    v[size_t(recorded(out.top_ids)->number)] = std::move(s.top_ids);
  });
  return out;
}

Tensor ReplayOps::copy(const Tensor& x) {
  if (tape_ == nullptr) return made(inner_.copy(x));
  const Tensor y = fresh(x.rows(), x.cols());
  tape_->operations.push_back(
      [=, this, n = recorded(y)->number](Values& v) { v[size_t(n)] = inner_.copy(resolve(v, x)); });
  return y;
}

}  // namespace bumblebee::testing_support
