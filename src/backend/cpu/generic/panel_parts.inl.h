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
