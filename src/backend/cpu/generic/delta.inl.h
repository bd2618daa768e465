// Recurrent layers: a short convolution of columns, and the gated delta rule. Included inside an instruction set's own
// namespace after elementwise.inl.h and the set's integers.
#pragma once

template <class Then>
inline void convolve_then(const float* const* x, const float* w, size_t w_stride, int kernel, int count, float* y,
                          Then then) {
  int i = 0;
  for (; i + 16 <= count; i += 16) {
    F32x16 sum = mul(load(w + i), load(x[0] + i));
    for (int j = 1; j < kernel; ++j) sum = fma(load(w + size_t(j) * w_stride + i), load(x[j] + i), sum);
    store(y + i, then(sum));
  }
  if (i < count) {
    const int n = count - i;
    F32x16 sum = mul(load_n(w + i, n), load_n(x[0] + i, n));
    for (int j = 1; j < kernel; ++j) sum = fma(load_n(w + size_t(j) * w_stride + i, n), load_n(x[j] + i, n), sum);
    store_n(y + i, then(sum), n);
  }
}

inline void convolve(const float* const* x, const float* w, size_t w_stride, int kernel, int count, float* y) {
  convolve_then(x, w, w_stride, kernel, count, y, [](F32x16 sum) { return sum; });
}

inline void convolve_silu(const float* const* x, const float* w, size_t w_stride, int kernel, int count, float* y) {
  convolve_then(x, w, w_stride, kernel, count, y, [](F32x16 sum) { return silu16(sum); });
}

/// What a row asks of a state before it changes it: Sᵀk and Sᵀq, sixteen columns at a time, summed in order of i.
struct DeltaSums {
  F32x16 k[2], q[2];
};

BB_INLINE void clear(DeltaSums& s) {
  for (int c = 0; c < 2; ++c) s.k[c] = s.q[c] = zero();
}
BB_INLINE void add_row(DeltaSums& s, const F32x16 (&state)[2], F32x16 k, F32x16 q) {
  for (int c = 0; c < 2; ++c) {
    s.k[c] = fma(k, state[c], s.k[c]);
    s.q[c] = fma(q, state[c], s.q[c]);
  }
}

/// Rows whose values and answers are asked for ahead. They lie in another page each, where the processor's own
/// prefetching does not follow, and a row begins with its values.
inline constexpr int kDeltaAhead = 4;

/// One pass over the state for each row: as it changes by a row, the next row's sums are formed. With S before a row
/// and learnt = beta·(v - decay·Sᵀk), the answer is decay·Sᵀq + (q·k)·learnt.
inline void delta_rule(const DeltaRule& d) {
  static_assert(kDeltaCols == 32);
  if (d.from == nullptr) {
    for (int i = 0; i < 2 * d.key_dim; ++i) store(d.to + size_t(i) * 16, zero());
  }
  const float* state = d.from != nullptr ? d.from : d.to;
  const int low = d.cols < 16 ? d.cols : 16, high = d.cols - low;
  DeltaSums sums;
  clear(sums);
  for (int i = 0; i < d.key_dim; ++i) {
    const F32x16 s[2] = {load(state + size_t(i) * 32), load(state + size_t(i) * 32 + 16)};
    add_row(sums, s, set1(d.k[i]), set1(d.q[i]));
  }
  for (int r = 0; r < d.rows; ++r) {
    const float* const v = d.v + size_t(r) * d.v_stride;
    float* const out = d.out + size_t(r) * d.out_stride;
    if (r + kDeltaAhead < d.rows) {
      const float *const next_v = v + kDeltaAhead * d.v_stride, *const next_out = out + kDeltaAhead * d.out_stride;
      prefetch(next_v);
      prefetch(next_out);
      if (high > 0) {
        prefetch(next_v + 16);
        prefetch(next_out + 16);
      }
    }
    const F32x16 decay = set1(d.decay[size_t(r) * d.gate_stride]), beta = set1(d.beta[size_t(r) * d.gate_stride]);
    const F32x16 meet = set1(d.meet[size_t(r) * d.meet_stride]);
    const F32x16 values[2] = {low == 16 ? load(v) : load_n(v, low),
                              high == 16 ? load(v + 16) : (high > 0 ? load_n(v + 16, high) : zero())};
    F32x16 learnt[2], answer[2];
    for (int c = 0; c < 2; ++c) {
      learnt[c] = mul(beta, fnma(decay, sums.k[c], values[c]));
      answer[c] = fma(meet, learnt[c], mul(decay, sums.q[c]));
    }
    if (low == 16) {
      store(out, answer[0]);
    } else {
      store_n(out, answer[0], low);
    }
    if (high == 16) {
      store(out + 16, answer[1]);
    } else if (high > 0) {
      store_n(out + 16, answer[1], high);
    }
    const float* const k = d.k + size_t(r) * d.key_stride;
    const auto changed = [&](int i, F32x16(&s)[2]) {
      const F32x16 key = set1(k[i]);
      for (int c = 0; c < 2; ++c) {
        s[c] = fma(key, learnt[c], mul(decay, load(state + size_t(i) * 32 + c * 16)));
        store(d.to + size_t(i) * 32 + c * 16, s[c]);
      }
    };
    F32x16 s[2];
    if (r + 1 == d.rows) {
      for (int i = 0; i < d.key_dim; ++i) changed(i, s);
      break;
    }
    const float *const next_k = k + d.key_stride, *const next_q = d.q + size_t(r + 1) * d.key_stride;
    clear(sums);
    for (int i = 0; i < d.key_dim; ++i) {
      changed(i, s);
      add_row(sums, s, set1(next_k[i]), set1(next_q[i]));
    }
    state = d.to;
  }
}
