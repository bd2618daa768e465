// What panels have in common, however they multiply. Included after int8.inl.h.
#pragma once

/// The codes of the next panel, whose rows follow those of this one: asked for in the order of memory, a few lines at a
/// time while this panel is multiplied. The processor can wait for some twenty lines, and would stand still over more.
struct PanelPrefetch {
  const uint8_t* next;
  size_t left;  // bytes
  int lines;    // at a time
  BB_INLINE void ask() {
    for (int i = 0; i < lines && left > 0; ++i, next += 64) {
      prefetch_far(next);
      left -= left < 64 ? left : 64;
    }
  }
  [[gnu::noinline]] void step() { ask(); }
};

/// What `rows` weight rows from row n on have, asked for `times` times.
struct RowsAhead {
  PanelPrefetch codes, scales, biases;
  RowsAhead(const WeightRows& w, int n, int rows, int times) {
    const size_t factors = size_t(rows) * size_t(w.in / w.group), before = size_t(n) * size_t(w.in / w.group),
                 size = element_size(w.element), bias_size = w.floats ? 0 : element_size(w.bias_element);
    const size_t bytes = size_t(rows) * w.row_bytes + factors * (size + bias_size);
    const int lines = int(bytes / 64) / times + 1;
    codes = {w.codes + size_t(n) * w.row_bytes, size_t(rows) * w.row_bytes, lines};
    scales = {w.scales + before * size, factors * size, lines};
    biases = {w.biases + before * bias_size, factors * bias_size, lines};
  }
  BB_INLINE void ask() {
    if (codes.left > 0) return codes.ask();
    if (scales.left > 0) return scales.ask();
    biases.ask();
  }
};

/// The scales and biases of all rows of a panel, [group][kInt8Cols].
inline void load_panel_scales(const WeightRows& w, int n, int last, int tiles, float* scale, float* bias) {
  const int groups = w.in / w.group;
  for (int g = 0; g < groups; g += 16) {
    const int count = groups - g < 16 ? groups - g : 16;
    const size_t at = size_t(g) * kInt8Cols;
    for (int t = 0; t < tiles; ++t) {
      load_scale_lanes<kInt8Cols>(w.scales, w.element, w, n + 16 * t, last, g, count, scale + at + 16 * t);
      if (!w.floats)
        load_scale_lanes<kInt8Cols>(w.biases, w.bias_element, w, n + 16 * t, last, g, count, bias + at + 16 * t);
    }
  }
  if (!w.floats) return;
  for (size_t i = 0; i < size_t(groups) * kInt8Cols; i += 16) {
    const F32x16 s = mul(load(scale + i), set1(0.5f));
    store(scale + i, s);
    store(bias + i, mul(s, set1(-kE2m1Offset)));
  }
}

/// A lane that is done; `count` is a multiple of sixteen.
[[gnu::noinline]] inline void add_lane(const float* lane, size_t count, float* sums) {
  for (size_t i = 0; i < count; i += 16) store(sums + i, add(load(sums + i), load(lane + i)));
}
