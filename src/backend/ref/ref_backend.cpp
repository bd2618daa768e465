// Loops over rows and heads around math.h. Weights are decoded row by row from their stored bytes, never kept in
// another form.
#include "backend/ref/ref_backend.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "backend/ref/math.h"
#include "backend/ref/products.h"
#include "backend/ref/ref_experts.h"
#include "backend/ref/ref_grad_ops.h"
#include "backend/ref/ref_kv.h"
#include "backend/ref/ref_pending.h"
#include "backend/ref/ref_recurrent.h"
#include "backend/ref/ref_tensor.h"
#include "backend/sample.h"
#include "base/bandwidth.h"
#include "base/host_memory.h"
#include "quant/elements.h"

namespace bumblebee {
namespace {

using ref::host;
using ref::make_tensor;
using ref::make_writable;
using ref::RefKv;
using ref::RefWeight;
using ref::row;

struct RefLowRank final : PackedLowRank {
  std::vector<double> a, b, bias;  // [rank, in] [out, rank] [out] or empty
  size_t bytes() const override { return (a.size() + b.size() + bias.size()) * sizeof(double); }
};

class RefOps final : public Ops {
 public:
  Batch batch;
  SlotTable slots;

  Tensor embed(const Weight& table) override {
    Tensor y = make_tensor(batch.rows(), table.in);
    for (int r = 0; r < y.rows(); ++r) {
      const int32_t token = batch.tokens[size_t(r)];
      BB_CHECK(token >= 0 && token < table.out, "token ", token, " of ", table.out);
      decode_row<double>(host(table), token, row(y, r));
    }
    return y;
  }

  void matmul(const Tensor& x, std::span<const MatmulTerm> terms, std::span<Tensor> y) override {
    std::vector<double> w(static_cast<size_t>(x.cols()));
    for (size_t t = 0; t < terms.size(); ++t) {
      const Weight& weight = *terms[t].weight;
      BB_CHECK(weight.in == x.cols());
      y[t] = make_tensor(x.rows(), weight.out);
      for (int n = 0; n < weight.out; ++n) {
        decode_row<double>(host(weight), n, w);
        const double bias = terms[t].bias != nullptr ? row(*terms[t].bias, 0)[size_t(n)] : 0.0;
        for (int r = 0; r < x.rows(); ++r) {
          row(y[t], r)[size_t(n)] = ref::dot<double, double>(row(x, r), std::span<const double>(w)) + bias;
        }
      }
    }
  }

  void lora(const Tensor& x, RowSet rows, std::span<const LoraModule> modules, std::span<Tensor> y) override {
    for (size_t m = 0; m < modules.size(); ++m) {
      BB_CHECK(bool(y[m]) != modules[m].replaced, "module ", modules[m].site);
      y[m] = modules[m].replaced ? make_tensor(x.rows(), slots.at(slot(rows, 0), modules[m].site)->weight.out)
                                 : make_writable(y[m]);
      for (int r = 0; r < x.rows(); ++r) {
        const LoraEntry* entry = slots.at(slot(rows, r), modules[m].site);
        const std::span<double> out = row(y[m], r);
        const bool bias_last = entry != nullptr && entry->comes_before_bias();
        if (!bias_last && modules[m].bias != nullptr) ref::add<double>(out, row(*modules[m].bias, 0));
        if (entry != nullptr) {
          if (entry->weight) ref::multiply_row(entry->weight, row(x, r), out);
          for (const LoraEntry::Term& term : entry->terms) {
            const auto& f = static_cast<const RefLowRank&>(*term.factors.packed);
            add_term(term, ref::times<double>(f.a, row(x, r)), out);
          }
          if (entry->dora_scale) ref::multiply<double>(out, row(entry->dora_scale, 0));
        }
        const Tensor* bias = bias_last && entry->bias ? &entry->bias : modules[m].bias;
        if (bias_last && bias != nullptr) ref::add<double>(out, row(*bias, 0));
      }
    }
  }

  void lora_embed(int site, Tensor& y) override {
    y = make_writable(y);
    for (int r = 0; r < y.rows(); ++r) {
      const LoraEntry* entry = slots.at(batch.slot[size_t(r)], site);
      if (entry == nullptr) continue;
      const size_t token = size_t(batch.tokens[size_t(r)]);
      if (entry->weight) decode_row<double>(host(entry->weight), int(token), row(y, r));
      for (const LoraEntry::Term& term : entry->terms) {
        const auto& f = static_cast<const RefLowRank&>(*term.factors.packed);
        std::vector<double> u;
        for (int i = 0; i < term.factors.rank; ++i) u.push_back(f.a[size_t(i) * size_t(term.factors.in) + token]);
        add_term(term, u, row(y, r));
      }
      if (!entry->dora_scale) continue;
      const std::span<double> factor = row(entry->dora_scale, 0);
      for (int c = 0; c < y.cols(); ++c) row(y, r)[size_t(c)] *= factor[entry->dora_scale_by_token ? token : size_t(c)];
    }
  }

  Tensor lora_norm(const Tensor& x, RowSet rows, int width, const NormParams& norm, int site) override {
    Tensor y = make_tensor(x.rows(), x.cols());
    for (int r = 0; r < x.rows(); ++r) {
      const LoraEntry* entry = slots.at(slot(rows, r), site);
      const Tensor& w = entry != nullptr && entry->norm ? entry->norm : norm.w;
      for (size_t first = 0; first < size_t(x.cols()); first += size_t(width)) {
        const std::span<double> from = row(x, r).subspan(first, size_t(width)),
                                to = row(y, r).subspan(first, size_t(width));
        std::copy(from.begin(), from.end(), to.begin());
        ref::rms_norm<double>(from.first(size_t(w.cols())), row(w, 0), double(norm.eps), to.first(size_t(w.cols())));
      }
    }
    return y;
  }

  Tensor rms_norm(const Tensor& x, const NormParams& norm) override {
    Tensor y = make_tensor(x.rows(), x.cols());
    const size_t width = size_t(norm.w.cols());
    for (int r = 0; r < x.rows(); ++r) {
      for (size_t first = 0; first < size_t(x.cols()); first += width) {
        ref::rms_norm<double>(row(x, r).subspan(first, width), row(norm.w, 0), double(norm.eps),
                              row(y, r).subspan(first, width));
      }
    }
    return y;
  }

  void add(Tensor& x, Tensor delta) override {
    x = make_writable(x);
    for (int r = 0; r < x.rows(); ++r) {
      for (int c = 0; c < x.cols(); ++c) row(x, r)[size_t(c)] += row(delta, r)[size_t(c)];
    }
  }

  Tensor add_rms_norm(Tensor& x, Tensor delta, const NormParams& norm) override {
    add(x, delta);
    return rms_norm(x, norm);
  }

  void norm_rope(Tensor& q, Tensor& k, int head_dim, const NormParams* q_norm, const NormParams* k_norm,
                 const RopeParams& rope) override {
    rotate(q, head_dim, q_norm, rope);
    if (k) rotate(k, head_dim, k_norm, rope);
    for (int r = 0; r < q.rows() && rope.query_growth != 0; ++r) {
      for (double& v : row(q, r)) v *= double(rope.query_factor(batch.positions[size_t(r)]));
    }
  }

  Tensor attend(KvStore& store, int layer, const Tensor& q, const Tensor& k, const Tensor& v,
                const AttentionParams& a) override {
    auto& kv = static_cast<RefKv&>(store);
    const size_t dim = size_t(a.head_dim), value_dim = size_t(a.values());
    const int page_size = kv.shape().page_size;
    Tensor out = make_tensor(q.rows(), a.heads * a.values());
    for (const Segment& s : batch.segments) {
      const auto cached = [&](int token, int which, int head) {
        const int page = batch.pages[size_t(s.first_page + token / page_size)];
        return kv.at(page, layer, which, head, token % page_size);
      };
      for (int i = 0; k && i < s.rows; ++i) {
        for (int h = 0; h < a.kv_heads; ++h) {
          const auto put = [&](const Tensor& t, int which) {
            const std::span<double> source = row(t, s.first + i).subspan(size_t(h) * dim, dim);
            std::copy(source.begin(), source.end(), cached(s.past + i, which, h).begin());
          };
          put(k, 0);
          if (v) put(v, 1);
        }
      }
      for (int i = 0; i < s.rows; ++i) {
        const int position = s.past + i;
        const int first = a.window > 0 ? std::max(0, position - a.window + 1) : 0;
        for (int h = 0; h < a.heads; ++h) {
          const int group = h * a.kv_heads / a.heads;
          const auto key = [&](int j) -> std::span<const double> { return cached(first + j, 0, group); };
          const auto value = [&](int j) -> std::span<const double> { return cached(first + j, 1, group); };
          ref::attend<double>(row(q, s.first + i).subspan(size_t(h) * dim, dim), position - first + 1, double(a.scale),
                              key, value, row(out, s.first + i).subspan(size_t(h) * value_dim, value_dim),
                              double(a.soft_cap), a.sinks ? row(a.sinks, 0)[size_t(h)] : -INFINITY);
        }
      }
    }
    return out;
  }

  void split(const Tensor& x, const SplitParams& split, std::span<Tensor> y) override {
    ref::split_columns(x, split, y);
  }

  Tensor causal_conv(KvStore& kv, int layer, const Tensor& x, const ConvParams& conv) override {
    return ref::causal_conv(batch, static_cast<ref::RefKv&>(kv), layer, x, conv);
  }

  Tensor delta_rule(KvStore& kv, int layer, const Tensor& qkv, const Tensor& a, const Tensor& b,
                    const DeltaParams& delta) override {
    return ref::delta_rule(batch, static_cast<ref::RefKv&>(kv), layer, qkv, a, b, delta);
  }

  Tensor glu(Activation activation, Tensor gate, Tensor up) override {
    Tensor y = make_tensor(gate.rows(), gate.cols());
    for (int r = 0; r < y.rows(); ++r) {
      for (size_t c = 0; c < size_t(y.cols()); ++c) {
        const double g = row(gate, r)[c];
        const double gated = activation == Activation::gelu      ? ref::gelu(g)
                             : activation == Activation::sigmoid ? ref::sigmoid(g)
                             : activation == Activation::silu    ? ref::silu(g)
                                                                 : g;
        const double u = row(up, r)[c];
        row(y, r)[c] = activation == Activation::clamped_silu ? ref::clamped_glu(g, u) : gated * u;
      }
    }
    return y;
  }

  void multiply(Tensor& x, float factor) override {
    x = make_writable(x);
    for (int r = 0; r < x.rows(); ++r) {
      for (double& v : row(x, r)) v *= double(factor);
    }
  }

  void soft_cap(Tensor& x, float cap) override {
    x = make_writable(x);
    for (int r = 0; r < x.rows(); ++r) {
      for (double& v : row(x, r)) v = ref::soft_cap(v, double(cap));
    }
  }

  Tensor columns(const Tensor& x, int first, int count) override {
    BB_CHECK(first >= 0 && count >= 0 && first + count <= x.cols(), "columns ", first, " and ", count);
    Tensor y = make_tensor(x.rows(), count);
    for (int r = 0; r < x.rows(); ++r) std::copy_n(row(x, r).begin() + first, count, row(y, r).begin());
    return y;
  }

  Routing route(const Tensor& logits, const RouterParams& router) override { return ref::route(logits, router); }
  void matmul_experts(const Tensor& x, ExpertRows rows, const Routing& routing, std::span<const Weight* const> stacks,
                      std::span<Tensor> y) override {
    ref::matmul_experts(x, rows, routing, stacks, y, ref::multiply_row);
  }
  void add_expert_bias(Tensor& y, const Routing& routing, const Tensor& bias) override {
    ref::add_expert_bias(y, routing, bias);
  }
  Tensor matmul_heads(const Tensor& x, const Weight& heads, bool transposed, int rest) override {
    return ref::matmul_heads(x, heads, transposed, rest, transposed ? ref::multiply_transposed : ref::multiply_row);
  }

  Tensor sum_experts(const Tensor& y, const Routing& routing) override { return ref::sum_experts(y, routing); }
  Tensor gate_rows(Tensor y, const Tensor& gate) override { return ref::gate_rows(std::move(y), gate); }

  void lora_experts(const Tensor& x, ExpertRows rows, const Routing& routing, std::span<const int> sites,
                    std::span<Tensor> y) override {
    for (size_t s = 0; s < sites.size(); ++s) {
      y[s] = make_writable(y[s]);
      for (int r = 0; r < routing.experts.rows(); ++r) {
        const LoraEntry* entry = slots.at(slot(RowSet::all, r), sites[s]);
        if (entry == nullptr || entry->experts.empty()) continue;
        for (size_t j = 0; j < size_t(routing.experts.cols()); ++j) {
          const int assignment = ref::ints(routing.order, r)[j];
          for (const LoraEntry::Term& term : entry->experts[size_t(ref::ints(routing.experts, r)[j])]) {
            const auto& f = static_cast<const RefLowRank&>(*term.factors.packed);
            add_term(term, ref::times<double>(f.a, row(x, rows == ExpertRows::batch ? r : assignment)),
                     row(y[s], assignment));
          }
        }
      }
    }
  }

  void lora_heads(const Tensor& x, int site, int heads, int rest, Tensor& y) override {
    y = make_writable(y);
    const size_t in = size_t(x.cols() / heads), out = size_t(y.cols() / heads), after = size_t(rest);
    for (int r = 0; r < y.rows(); ++r) {
      const LoraEntry* entry = slots.at(slot(RowSet::all, r), site);
      if (entry == nullptr || entry->experts.empty()) continue;
      for (size_t h = 0; h < size_t(heads); ++h) {
        for (const LoraEntry::Term& term : entry->experts[h]) {
          const auto& f = static_cast<const RefLowRank&>(*term.factors.packed);
          add_term(term, ref::times<double>(f.a, row(x, r).subspan(h * in, in - after)),
                   row(y, r).subspan(h * out, out - after));
        }
      }
    }
  }

  Tensor gather_rows(const Tensor& x) override {
    Tensor y = make_tensor(int(batch.logit_rows.size()), x.cols());
    for (int r = 0; r < y.rows(); ++r)
      std::copy_n(row(x, batch.logit_rows[size_t(r)]).begin(), x.cols(), row(y, r).begin());
    return y;
  }

  void keep_logit_rows() override { batch.keep_logit_rows(); }

  Sampled sample(const Tensor& logits) override {
    check_choices(batch, logits.cols());
    bool logprobs = false;
    int tops = 0;
    for (const SampleRow& s : batch.sample) {
      if (s.mode == SampleRow::Mode::none || !s.logprob) continue;
      logprobs = true;
      tops = std::max(tops, s.top_logprobs);
    }
    Sampled out{.ids = ref::make_ints(logits.rows(), 1, kNotAsked), .logprobs = {}, .top_ids = {}};
    if (logprobs) {
      out.logprobs = make_tensor(logits.rows(), 1 + tops);
      out.top_ids = ref::make_ints(logits.rows(), tops, -1);
    }
    SampleScratch scratch;
    for (int r = 0; r < logits.rows(); ++r) {
      const SampleRow asked = batch.sample.empty() ? SampleRow() : batch.sample[size_t(r)];
      const std::vector<float> values(row(logits, r).begin(), row(logits, r).end());
      const Choice choice = choose(
          values, asked, std::span(batch.changes).subspan(size_t(asked.first_change), size_t(asked.changes)), scratch);
      ref::ints(out.ids, r)[0] = choice.token;
      if (!logprobs) continue;
      const std::span<double> all = row(out.logprobs, r);
      std::fill(all.begin(), all.end(), -std::numeric_limits<double>::infinity());
      if (choice.token < 0 || !asked.logprob) continue;
      all[0] = choice.logprobs.logprob;
      for (size_t i = 0; i < choice.logprobs.top.size(); ++i) {
        ref::ints(out.top_ids, r)[i] = choice.logprobs.top[i].first;
        all[1 + i] = choice.logprobs.top[i].second;
      }
    }
    return out;
  }
  Tensor copy(const Tensor& x) override { return ref::copy(x); }

 private:
  int32_t slot(RowSet rows, int r) const {
    return batch.slot[rows == RowSet::all ? size_t(r) : size_t(batch.logit_rows[size_t(r)])];
  }

  /// y += scale·(B u + b)
  static void add_term(const LoraEntry::Term& term, std::span<const double> u, std::span<double> y) {
    const auto& f = static_cast<const RefLowRank&>(*term.factors.packed);
    const std::vector<double> delta = ref::times<double>(f.b, u);
    for (size_t n = 0; n < y.size(); ++n) y[n] += double(term.scale) * (delta[n] + (f.bias.empty() ? 0.0 : f.bias[n]));
  }

  void rotate(Tensor& t, int head_dim, const NormParams* norm, const RopeParams& rope) {
    t = make_writable(t);
    const size_t dim = size_t(head_dim);
    std::vector<double> copy;
    const std::vector<bool> stretched = batch.stretched_rows();
    for (int r = 0; r < t.rows(); ++r) {
      for (size_t first = 0; first < size_t(t.cols()); first += dim) {
        const std::span<double> head = row(t, r).subspan(first, dim);
        if (norm != nullptr) {
          const std::span<double> normed = head.first(size_t(norm->w.cols()));
          copy.assign(normed.begin(), normed.end());
          ref::rms_norm<double>(std::span<const double>(copy), row(norm->w, 0), double(norm->eps), normed);
        }
        const bool of_long = stretched[size_t(r)] && !rope.long_inv_freq.empty();
        ref::rope(head.subspan(size_t(rope.first)), batch.positions[size_t(r)],
                  of_long ? rope.long_inv_freq : rope.inv_freq, rope.attention_factor, rope.interleaved);
      }
    }
  }
};

class RefStream final : public Stream {
 public:
  void bind(const Batch& batch, const KvStore* kv, const Tensor& chosen) override {
    constexpr int kAny = 1 << 30;
    check(batch, kv != nullptr ? kv->shape().page_size : kAny, kv != nullptr ? kv->shape().pages : kAny,
          kv != nullptr ? kv->shape().states : 0);
    ops_.batch = batch;
    std::vector<int32_t> ids;
    for (int r = 0; chosen && r < chosen.rows(); ++r) ids.push_back(ref::ints(chosen, r)[0]);
    if (chosen) ops_.batch.resolve_chosen(ids);
  }
  StepOutputs run(const StepKey&, FunctionRef<StepOutputs()> body) override { return body(); }
  RefOps& ops() override { return ops_; }
  GradOps* grad_ops() override { return &grad_ops_; }
  std::unique_ptr<Pending> fetch(const Tensor& tensor) override { return std::make_unique<ref::RefPending>(tensor); }

 private:
  RefOps ops_;
  ref::RefGradOps grad_ops_{ops_.batch};
};

class RefBackend final : public Backend {
 public:
  std::string_view name() const override { return "ref"; }
  Tensor make(int rows, int cols) override { return make_tensor(rows, cols); }
  Tensor upload(std::span<const float> values, int rows, int cols) override {
    BB_CHECK(values.size() == size_t(rows) * size_t(cols));
    Tensor t = make_tensor(rows, cols);
    for (int r = 0; r < rows; ++r) std::copy_n(values.begin() + int64_t(r) * cols, cols, row(t, r).begin());
    return t;
  }
  void read(const Tensor& t, std::span<float> values) override {
    BB_CHECK(values.size() == size_t(t.rows()) * size_t(t.cols()));
    for (int r = 0; r < t.rows(); ++r) {
      for (int c = 0; c < t.cols(); ++c) values[size_t(r) * size_t(t.cols()) + size_t(c)] = float(row(t, r)[size_t(c)]);
    }
  }
  void read_bytes(const Tensor& t, std::span<std::byte> out) override {
    BB_CHECK(out.size() == t.size_bytes());
    if (t.rows() == 0 || t.cols() == 0) return;
    const void* const from = t.dtype() == DType::i32 ? static_cast<const void*>(ref::ints(t, 0).data())
                                                     : static_cast<const void*>(row(t, 0).data());
    std::memcpy(out.data(), from, out.size());
  }
  Weight pack(const HostWeight& weight) override {
    require_known("ref", weight);
    auto packed = std::make_shared<RefWeight>();
    packed->host = weight;
    return {weight.format, weight.out, weight.in, std::move(packed)};
  }
  Weight stack(std::span<const Weight> experts) override {
    auto packed = std::make_shared<ref::RefStack>();
    packed->experts.assign(experts.begin(), experts.end());
    const Weight& first = experts.front();
    return {first.format, first.out, first.in, std::move(packed), int(experts.size())};
  }
  Tensor pack_vector(const HostWeight& vector) override {
    Tensor t = make_tensor(1, vector.in);
    decode_row<double>(vector, 0, row(t, 0));
    return t;
  }
  LowRankWeights pack_factors(const HostLowRank& f, LowRankUse) override {
    BB_CHECK(f.a.size() == size_t(f.rank) * size_t(f.in) && f.b.size() == size_t(f.out) * size_t(f.rank));
    auto packed = std::make_shared<RefLowRank>();
    packed->a.assign(f.a.begin(), f.a.end());
    packed->b.assign(f.b.begin(), f.b.end());
    packed->bias.assign(f.bias.begin(), f.bias.end());
    return {f.rank, f.in, f.out, std::move(packed)};
  }
  Tensor dora_scale(const Weight& weight, const HostLowRank& f, float scale, std::span<const float> magnitude,
                    bool by_column) override {
    BB_CHECK(magnitude.size() == size_t(by_column ? weight.in : weight.out));
    std::vector<double> squares(magnitude.size()), w(static_cast<size_t>(weight.in));
    for (int n = 0; n < weight.out; ++n) {
      decode_row<double>(host(weight), n, w);
      for (int k = 0; k < weight.in; ++k) {
        double delta = 0;
        for (int i = 0; i < f.rank; ++i)
          delta +=
              double(f.b[size_t(n) * size_t(f.rank) + size_t(i)]) * double(f.a[size_t(i) * size_t(f.in) + size_t(k)]);
        const double value = w[size_t(k)] + double(scale) * delta;
        squares[size_t(by_column ? k : n)] += value * value;
      }
    }
    Tensor factor = make_tensor(1, int(magnitude.size()));
    for (size_t i = 0; i < magnitude.size(); ++i) row(factor, 0)[i] = double(magnitude[i]) / std::sqrt(squares[i]);
    return factor;
  }
  std::unique_ptr<KvStore> make_kv(const KvShape& shape) override { return std::make_unique<RefKv>(shape); }
  void set_slot(int32_t slot, std::span<const LoraEntry* const> by_site) override {
    stream_.ops().slots.set(slot, by_site);
  }
  MemoryUse memory() const override {
    const HostMemory host = host_memory();
    return {.total = host.total, .free = host.free};
  }
  Stream& stream() override { return stream_; }

 private:
  RefStream stream_;
};

}  // namespace

BackendEntry ref_backend_entry() {
  return {.name = "ref",
          .count = [] { return 1; },
          .absent = [](int) { return std::string(); },
          .lacks = [](int, const Format& f) { return known_format(f) ? "" : cat("matmul(", to_string(f), ")"); },
          .describe = [](int) { return std::string("scalar reference in f64, one thread"); },
          .memory_bytes = [](int) { return host_memory().total; },
          .free_bytes = [](int) { return host_memory().free; },
          .bandwidth = [](int, int) { return read_bandwidth(1); },
          .instruction_sets = [](int) { return std::vector<std::string>{"scalar"}; },
          .create = [](const BackendOptions&) -> std::unique_ptr<Backend> { return std::make_unique<RefBackend>(); }};
}

}  // namespace bumblebee
