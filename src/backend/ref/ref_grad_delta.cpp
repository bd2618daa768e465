// Derivatives of recurrent layers, each as it is written on paper. All states of a sequence are kept.
#include "backend/ref/delta_math.h"
#include "backend/ref/grad_math.h"
#include "backend/ref/ref_grad_ops.h"
#include "backend/ref/ref_tensor.h"

namespace bumblebee::ref {
namespace {

/// Inputs and weights of the convolution of one column for row i of a segment.
struct ConvColumn {
  std::vector<double> in, w;
};
ConvColumn conv_column(const Tensor& x, const ConvParams& conv, int first, int i, size_t c) {
  ConvColumn column;
  const int kernel = conv.w.rows();
  for (int j = 0; j < kernel; ++j) {
    const int from = i - (kernel - 1) + j;
    column.in.push_back(from >= 0 ? row(x, first + from)[c] : 0);
    column.w.push_back(row(conv.w, j)[c]);
  }
  return column;
}

/// Spans of one head in one row.
struct DeltaColumns {
  size_t q, k, v;
  DeltaColumns(const DeltaParams& d, size_t h)
      : q(h * size_t(d.key_heads) / size_t(d.value_heads) * size_t(d.key_dim)),
        k(size_t(d.key_cols()) + q),
        v(2 * size_t(d.key_cols()) + h * size_t(d.value_dim)) {}
};

}  // namespace

Tensor RefGradOps::conv_packed(const Tensor& x, const ConvParams& conv) {
  Tensor y = make_tensor(x.rows(), x.cols());
  for (const Segment& s : batch_.segments) {
    for (int i = 0; i < s.rows; ++i) {
      for (size_t c = 0; c < size_t(x.cols()); ++c) {
        const ConvColumn column = conv_column(x, conv, s.first, i, c);
        row(y, s.first + i)[c] = convolve<double>(column.in, column.w, conv.silu);
      }
    }
  }
  return y;
}

Tensor RefGradOps::conv_packed_dx(const Tensor& dy, const Tensor& x, const ConvParams& conv) {
  Tensor dx = make_tensor(x.rows(), x.cols());
  for (const Segment& s : batch_.segments) {
    for (int i = 0; i < s.rows; ++i) {
      for (size_t c = 0; c < size_t(x.cols()); ++c) {
        const ConvColumn column = conv_column(x, conv, s.first, i, c);
        const double sum = dot<double, double>(column.in, std::span<const double>(column.w));
        const double slope = row(dy, s.first + i)[c] * (conv.silu ? silu_slope(sum) : 1);
        for (int j = 0; j < conv.w.rows(); ++j) {
          const int from = i - (conv.w.rows() - 1) + j;
          if (from >= 0) row(dx, s.first + from)[c] += slope * column.w[size_t(j)];
        }
      }
    }
  }
  return dx;
}

/// Calls body(head, what the rule reads, state) for every row of a segment, one head after the other; the state is as
/// the row finds it.
template <class Body>
void RefGradOps::for_delta_rows(const Segment& s, const Tensor& qkv, const Tensor& a, const Tensor& b,
                                const DeltaParams& d, Body body) const {
  const size_t dk = size_t(d.key_dim), dv = size_t(d.value_dim);
  for (size_t h = 0; h < size_t(d.value_heads); ++h) {
    const DeltaColumns at(d, h);
    std::vector<double> state(dk * dv);
    for (int r = s.first; r < s.first + s.rows; ++r) {
      const std::span<const double> in = row(qkv, r);
      body(h, r,
           DeltaRow{in.subspan(at.q, dk), in.subspan(at.k, dk), in.subspan(at.v, dv),
                    delta_decay<double>(row(a, r)[h], row(d.a_log, 0)[h], row(d.dt_bias, 0)[h]), sigmoid(row(b, r)[h])},
           state);
    }
  }
}

Tensor RefGradOps::delta_packed(const Tensor& qkv, const Tensor& a, const Tensor& b, const DeltaParams& d) {
  Tensor y = make_tensor(qkv.rows(), d.value_cols());
  const size_t dv = size_t(d.value_dim);
  for (const Segment& s : batch_.segments) {
    for_delta_rows(s, qkv, a, b, d, [&](size_t h, int r, const DeltaRow& in, std::vector<double>& state) {
      delta_rule<double>(in.q, in.k, in.v, in.decay, in.beta, state, row(y, r).subspan(h * dv, dv));
    });
  }
  return y;
}

void RefGradOps::delta_packed_dx(const Tensor& dout, const Tensor& qkv, const Tensor& a, const Tensor& b,
                                 const DeltaParams& d, Tensor& dqkv, Tensor& da, Tensor& db) {
  dqkv = make_tensor(qkv.rows(), qkv.cols());
  da = make_tensor(a.rows(), a.cols());
  db = make_tensor(b.rows(), b.cols());
  const size_t dk = size_t(d.key_dim), dv = size_t(d.value_dim);
  for (const Segment& s : batch_.segments) {
    std::vector<DeltaRow> rows;
    std::vector<std::vector<double>> states;
    const auto back = [&](size_t h) {
      const DeltaColumns at(d, h);
      std::vector<double> dstate(dk * dv);
      for (int i = s.rows - 1; i >= 0; --i) {
        const int r = s.first + i;
        const DeltaRow& in = rows[size_t(i)];
        const std::span<double> own = row(dqkv, r);
        DeltaSlopes slopes{.q = own.subspan(at.q, dk), .k = own.subspan(at.k, dk), .v = own.subspan(at.v, dv)};
        delta_rule_dx(in, row(dout, r).subspan(h * dv, dv), states[size_t(i)], dstate, slopes);
        row(da, r)[h] =
            slopes.decay * delta_decay_slope(in.decay, row(a, r)[h], row(d.a_log, 0)[h], row(d.dt_bias, 0)[h]);
        row(db, r)[h] = slopes.beta * in.beta * (1 - in.beta);
      }
      rows.clear();
      states.clear();
    };
    std::vector<double> unused(dv);
    for_delta_rows(s, qkv, a, b, d, [&](size_t h, int, const DeltaRow& in, std::vector<double>& state) {
      rows.push_back(in);
      states.push_back(state);
      delta_rule<double>(in.q, in.k, in.v, in.decay, in.beta, state, unused);
      if (int(rows.size()) == s.rows) back(h);
    });
  }
}

Tensor RefGradOps::split_dx(std::span<const Tensor> dy, const SplitParams& split) {
  const int group = split.group_cols();
  int rows = 0;
  for (const Tensor& t : dy) rows = std::max(rows, t ? t.rows() : 0);
  Tensor dx = make_tensor(rows, group * split.groups);
  std::vector<int> next(dy.size(), 0);
  int first = 0;
  for (const SplitParams::Piece& piece : split.pieces) {
    const Tensor& own = dy[size_t(piece.to)];
    for (int g = 0; g < split.groups; ++g) {
      for (int r = 0; own && r < rows; ++r) {
        std::copy_n(row(own, r).begin() + next[size_t(piece.to)], piece.cols, row(dx, r).begin() + g * group + first);
      }
      next[size_t(piece.to)] += piece.cols;
    }
    first += piece.cols;
  }
  return dx;
}

}  // namespace bumblebee::ref
