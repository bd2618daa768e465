// Loops over rows and heads around math.h. Weights are decoded row by row from their stored bytes, never kept in
// another form.
#include "backend/ref/ref_backend.h"

#include <cstring>
#include <utility>

#include "backend/ref/math.h"
#include "backend/ref/ref_grad_ops.h"
#include "backend/ref/ref_tensor.h"
#include "quant/affine.h"

namespace bumblebee {
namespace {

using ref::host;
using ref::make_tensor;
using ref::own;
using ref::RefWeight;
using ref::row;

struct RefFactors final : PackedFactors {
  std::vector<double> a, b, bias;  // [rank, in] [out, rank] [out] or empty
  size_t bytes() const override { return (a.size() + b.size() + bias.size()) * sizeof(double); }
};

/// Pages are allocated when first written: [layer][k or v][kv_head][page_size][head_dim].
class RefKv final : public KvStore {
 public:
  explicit RefKv(const KvShape& shape) : KvStore(shape), pages_(size_t(shape.pages)) {}

  std::span<double> at(int page, int layer, int which, int head, int token) {
    const KvShape& s = shape();
    std::vector<double>& values = pages_[size_t(page)];
    const size_t dim = size_t(s.head_dim);
    if (values.empty()) values.resize(size_t(s.layers) * 2 * size_t(s.kv_heads) * size_t(s.page_size) * dim);
    const size_t index =
        ((size_t(layer) * 2 + size_t(which)) * size_t(s.kv_heads) + size_t(head)) * size_t(s.page_size) + size_t(token);
    return std::span(values).subspan(index * dim, dim);
  }
  void copy_page(int from, int to) override { pages_[size_t(to)] = pages_[size_t(from)]; }
  void release_page(int page) override { pages_[size_t(page)] = {}; }

 private:
  std::vector<std::vector<double>> pages_;
};

class RefOps final : public Ops {
 public:
  Batch batch;

  Tensor embed(const Weight& table) override {
    Tensor y = make_tensor(batch.rows(), table.in);
    for (int r = 0; r < y.rows(); ++r) decode_row<double>(host(table), batch.tokens[size_t(r)], row(y, r));
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
      y[m] = own(y[m]);
      for (int r = 0; r < x.rows(); ++r) {
        const LoraEntry* entry = modules[m].table == nullptr ? nullptr : modules[m].table->at(slot(rows, r));
        const std::span<double> out = row(y[m], r);
        const bool bias_last = entry != nullptr && entry->comes_before_bias();
        if (!bias_last && modules[m].bias != nullptr) ref::add<double>(out, row(*modules[m].bias, 0));
        if (entry != nullptr) {
          if (entry->weight && !modules[m].has_weight) multiply(entry->weight, row(x, r), out);
          for (const LoraEntry::Term& term : entry->terms) {
            const auto& f = static_cast<const RefFactors&>(*term.factors.packed);
            add_term(term, ref::times<double>(f.a, row(x, r)), out);
          }
          if (entry->factor) ref::multiply<double>(out, row(entry->factor, 0));
        }
        const Tensor* bias = bias_last && entry->bias ? &entry->bias : modules[m].bias;
        if (bias_last && bias != nullptr) ref::add<double>(out, row(*bias, 0));
      }
    }
  }

  void lora_embed(const LoraTable& table, Tensor& y) override {
    y = own(y);
    for (int r = 0; r < y.rows(); ++r) {
      const LoraEntry* entry = table.at(batch.slot[size_t(r)]);
      if (entry == nullptr) continue;
      const size_t token = size_t(batch.tokens[size_t(r)]);
      if (entry->weight) decode_row<double>(host(entry->weight), int(token), row(y, r));
      for (const LoraEntry::Term& term : entry->terms) {
        const auto& f = static_cast<const RefFactors&>(*term.factors.packed);
        std::vector<double> u;
        for (int i = 0; i < term.factors.rank; ++i) u.push_back(f.a[size_t(i) * size_t(term.factors.in) + token]);
        add_term(term, u, row(y, r));
      }
      if (!entry->factor) continue;
      const std::span<double> factor = row(entry->factor, 0);
      for (int c = 0; c < y.cols(); ++c) row(y, r)[size_t(c)] *= factor[entry->factor_by_token ? token : size_t(c)];
    }
  }

  Tensor lora_norm(const Tensor& x, RowSet rows, int width, const NormParams& norm, const LoraTable& table) override {
    Tensor y = make_tensor(x.rows(), x.cols());
    for (int r = 0; r < x.rows(); ++r) {
      const LoraEntry* entry = table.at(slot(rows, r));
      const Tensor& w = entry != nullptr && entry->norm ? entry->norm : norm.w;
      for (size_t first = 0; first < size_t(x.cols()); first += size_t(width)) {
        ref::rms_norm<double>(row(x, r).subspan(first, size_t(width)), row(w, 0), double(norm.eps),
                              row(y, r).subspan(first, size_t(width)));
      }
    }
    return y;
  }

  Tensor rms_norm(const Tensor& x, const NormParams& norm) override {
    Tensor y = make_tensor(x.rows(), x.cols());
    for (int r = 0; r < x.rows(); ++r) ref::rms_norm<double>(row(x, r), row(norm.w, 0), double(norm.eps), row(y, r));
    return y;
  }

  void add(Tensor& x, const Tensor& delta) override {
    x = own(x);
    for (int r = 0; r < x.rows(); ++r) {
      for (int c = 0; c < x.cols(); ++c) row(x, r)[size_t(c)] += row(delta, r)[size_t(c)];
    }
  }

  Tensor add_rms_norm(Tensor& x, const Tensor& delta, const NormParams& norm) override {
    add(x, delta);
    return rms_norm(x, norm);
  }

  void norm_rope(Tensor& q, Tensor& k, int head_dim, const NormParams* q_norm, const NormParams* k_norm,
                 const RopeParams& rope) override {
    turn(q, head_dim, q_norm, rope);
    turn(k, head_dim, k_norm, rope);
  }

  Tensor attend(KvStore& store, int layer, const Tensor& q, const Tensor& k, const Tensor& v,
                const AttentionParams& a) override {
    auto& kv = static_cast<RefKv&>(store);
    const size_t dim = size_t(a.head_dim);
    const int page_size = kv.shape().page_size;
    Tensor out = make_tensor(q.rows(), q.cols());
    for (const Segment& s : batch.segments) {
      const auto cached = [&](int token, int which, int head) {
        const int page = batch.pages[size_t(s.first_page + token / page_size)];
        return kv.at(page, layer, which, head, token % page_size);
      };
      for (int i = 0; i < s.rows; ++i) {
        for (int h = 0; h < a.kv_heads; ++h) {
          const auto put = [&](const Tensor& t, int which) {
            const std::span<double> source = row(t, s.first + i).subspan(size_t(h) * dim, dim);
            std::copy(source.begin(), source.end(), cached(s.past + i, which, h).begin());
          };
          put(k, 0);
          put(v, 1);
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
                              key, value, row(out, s.first + i).subspan(size_t(h) * dim, dim));
        }
      }
    }
    return out;
  }

  Tensor glu(Activation, const Tensor& gate, const Tensor& up) override {
    Tensor y = make_tensor(gate.rows(), gate.cols());
    for (int r = 0; r < y.rows(); ++r) {
      for (int c = 0; c < y.cols(); ++c)
        row(y, r)[size_t(c)] = ref::silu(row(gate, r)[size_t(c)]) * row(up, r)[size_t(c)];
    }
    return y;
  }

  Tensor take_wanted(const Tensor& x) override {
    Tensor y = make_tensor(int(batch.wanted.size()), x.cols());
    for (int r = 0; r < y.rows(); ++r)
      std::copy_n(row(x, batch.wanted[size_t(r)]).begin(), x.cols(), row(y, r).begin());
    return y;
  }

  Tensor copy(const Tensor& x) override { return ref::copy(x); }

 private:
  int32_t slot(RowSet rows, int r) const {
    return batch.slot[rows == RowSet::all ? size_t(r) : size_t(batch.wanted[size_t(r)])];
  }

  /// y = W x
  static void multiply(const Weight& weight, std::span<const double> x, std::span<double> y) {
    std::vector<double> w(x.size());
    for (int n = 0; n < weight.out; ++n) {
      decode_row<double>(host(weight), n, w);
      y[size_t(n)] = ref::dot<double, double>(x, std::span<const double>(w));
    }
  }

  /// y += scale·(B u + b)
  static void add_term(const LoraEntry::Term& term, std::span<const double> u, std::span<double> y) {
    const auto& f = static_cast<const RefFactors&>(*term.factors.packed);
    const std::vector<double> delta = ref::times<double>(f.b, u);
    for (size_t n = 0; n < y.size(); ++n) y[n] += double(term.scale) * (delta[n] + (f.bias.empty() ? 0.0 : f.bias[n]));
  }

  void turn(Tensor& t, int head_dim, const NormParams* norm, const RopeParams& rope) {
    t = own(t);
    const size_t dim = size_t(head_dim);
    std::vector<double> copy(dim);
    for (int r = 0; r < t.rows(); ++r) {
      for (size_t first = 0; first < size_t(t.cols()); first += dim) {
        const std::span<double> head = row(t, r).subspan(first, dim);
        if (norm != nullptr) {
          std::copy(head.begin(), head.end(), copy.begin());
          ref::rms_norm<double>(std::span<const double>(copy), row(norm->w, 0), double(norm->eps), head);
        }
        ref::rope(head, batch.positions[size_t(r)], rope.inv_freq, rope.magnitude);
      }
    }
  }
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
  Weight prepare(const HostWeight& weight) override {
    auto packed = std::make_shared<RefWeight>();
    packed->host = weight;
    return {weight.format, weight.out, weight.in, std::move(packed)};
  }
  Tensor prepare_vector(const HostWeight& vector) override {
    Tensor t = make_tensor(1, vector.in);
    decode_row<double>(vector, 0, row(t, 0));
    return t;
  }
  Factors prepare_factors(const HostFactors& f, FactorUse) override {
    BB_CHECK(f.a.size() == size_t(f.rank) * size_t(f.in) && f.b.size() == size_t(f.out) * size_t(f.rank));
    auto packed = std::make_shared<RefFactors>();
    packed->a.assign(f.a.begin(), f.a.end());
    packed->b.assign(f.b.begin(), f.b.end());
    packed->bias.assign(f.bias.begin(), f.bias.end());
    return {f.rank, f.in, f.out, std::move(packed)};
  }
  Tensor dora_factor(const Weight& weight, const HostFactors& f, float scale, std::span<const float> magnitude,
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
  void bind(const Batch& batch, const KvStore* kv) override {
    check(batch, kv != nullptr ? kv->shape().page_size : 1 << 30, kv != nullptr ? kv->shape().pages : 1 << 30, 1 << 30);
    ops_.batch = batch;
  }
  void run(const StepKey&, FunctionRef<void()> body) override { body(); }
  Ops& ops() override { return ops_; }
  GradOps* grad_ops() override { return &grad_ops_; }

 private:
  RefOps ops_;
  ref::RefGradOps grad_ops_{ops_.batch};
};

}  // namespace

BackendEntry ref_backend_entry() {
  return {.name = "ref",
          .absent = [] { return std::string(); },
          .lacks = [](const Format&) { return std::string(); },
          .describe = [] { return std::string("scalar reference in f64, one thread"); },
          .instruction_sets = [] { return std::vector<std::string>{"scalar"}; },
          .create = [](const BackendOptions&) -> std::unique_ptr<Backend> { return std::make_unique<RefBackend>(); }};
}

}  // namespace bumblebee
