// A stage of products with random weights and inputs, its definition in f64, and how far the kernel may be from it.
//
// The bound, for one output: y = Σ over groups of s·Σ q·x + b·Σ x.
//  digits   64 inputs share a step h = max|x| / 16256. A number of steps v = rint(x·p) has |v - x/h| <= 1/2 +
//  16256·2^-22,
//           since p (3 roundings) and the product are rounded; so Σ over 64 inputs 0.504·h·Σ|w| (exact: h = max|x| /
//           266330112, and 2^-22·|x| for the roundings, which no longer vanish beside half a step).
//  sums     integer sums are exact. They become f32, are multiplied by step and scale, and are added; 2·in/group terms
//           in four sums, which then are a tree. (S(n) + 8u)·Σ|x|·(|s|q + |b|), as in docs/internals/numerics.md.
//  norm     a relative error of (S(in)/2 + 8u) of every x.
//  silu     |silu'| <= 1.1: 1.1·e(gate)·|up| + |silu(gate)|·e(up), and 9u·|y|.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "backend/cuda/kernels/product.h"
#include "backend/cuda/kernels/product_rows.h"
#include "base/float16.h"
#include "quant/affine.h"

namespace bumblebee::cuda {

inline void require(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

template <class T>
class OnDevice {
 public:
  explicit OnDevice(size_t count) : bytes_(count * sizeof(T) + 16) {
    require(cudaMalloc(&data_, bytes_));
    require(cudaMemset(data_, 0, bytes_));
  }
  explicit OnDevice(std::span<const T> values) : OnDevice(values.size()) {
    require(cudaMemcpy(data_, values.data(), values.size_bytes(), cudaMemcpyHostToDevice));
  }
  OnDevice(OnDevice&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  OnDevice& operator=(OnDevice&&) = delete;
  ~OnDevice() { cudaFree(data_); }
  T* get() const { return static_cast<T*>(data_); }
  std::vector<T> read(size_t count) const {
    std::vector<T> values(count);
    require(cudaMemcpy(values.data(), data_, count * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

struct ProductCase {
  std::vector<int> outs = {64};
  int in = 256, rows = 1, bits = 4, group = 64;
  ScaleType scale = ScaleType::bf16;
  bool exact = false, bias = false;
  StageInput::Kind kind = StageInput::Kind::plain;
  ProductStage::Epilogue epilogue = ProductStage::Epilogue::store;
  int most_outputs = 200;  // of a row and term that are compared
};

struct HostMatrix {
  std::vector<std::byte> codes;
  std::vector<float> scales, biases, bias;
};

inline double rounding(double n) { return std::min(n, 6 * std::sqrt(n)) * 0x1p-24; }

class ProductRun {
 public:
  explicit ProductRun(const ProductCase& c, unsigned seed = 1) : c_(c), random_(seed) {
    x_ = normal(size_t(c.rows) * size_t(c.in), 1.0f);
    for (size_t i = 0; i < x_.size(); i += 97) x_[i] *= 20.0f;  // outliers
    norm_ = normal(size_t(c.in), 0.3f);
    const int y_cols = c.epilogue == ProductStage::Epilogue::silu_mul ? c.outs[0] : total_out();
    residual_ = normal(size_t(c.rows) * size_t(y_cols), 1.0f);
    for (int out : c.outs) host_.push_back(make(out));
  }

  /// With the weights of another, and its rows from `first` on.
  ProductRun(const ProductCase& c, const ProductRun& other, int first) : c_(c), norm_(other.norm_), host_(other.host_) {
    const auto rows = [&](const std::vector<float>& from) {
      const auto cols = std::ptrdiff_t(from.size()) / other.c_.rows;
      return std::vector<float>(from.begin() + first * cols, from.begin() + (first + c.rows) * cols);
    };
    x_ = rows(other.x_), residual_ = rows(other.residual_);
  }

  const std::vector<float>& x() const { return x_; }
  void set_x(std::vector<float> x) { x_ = std::move(x); }
  void share_weights(const ProductRun& other) { host_ = other.host_, norm_ = other.norm_; }

  /// All outputs: of each term [rows, out], one after the other.
  std::vector<float> run() const {
    const ProductCase& c = c_;
    const bool pair = c.epilogue == ProductStage::Epilogue::silu_mul;
    ProductStage stage;
    std::vector<OnDevice<std::byte>> planes;
    std::vector<OnDevice<float>> floats;
    const int y_cols = pair ? c.outs[0] : total_out();
    OnDevice<float> y(size_t(c.rows) * size_t(y_cols)), residual(std::span<const float>{residual_});
    require(cudaMemset(y.get(), 0xff, size_t(c.rows) * size_t(y_cols) * sizeof(float)));  // NaN: all must be written
    int column = 0;
    for (size_t t = 0; t < host_.size(); ++t) {
      StageWeight& w = stage.term[t];
      planes.emplace_back(std::span<const std::byte>{host_[t].codes});
      w.codes = planes.back().get();
      planes.emplace_back(std::span<const std::byte>{stored(host_[t].scales)});
      w.scales = planes.back().get();
      planes.emplace_back(std::span<const std::byte>{stored(host_[t].biases)});
      w.biases = planes.back().get();
      if (c.bias) {
        floats.emplace_back(std::span<const float>{host_[t].bias});
        w.bias = floats.back().get();
      }
      w.out = c.outs[t];
      w.y = y.get() + column;
      w.stride = y_cols;
      if (!pair) column += w.out;
    }
    OnDevice<float> x(std::span<const float>{x_}), norm(std::span<const float>{norm_});
    stage.terms = int(host_.size());
    stage.in = c.in, stage.rows = c.rows, stage.bits = c.bits, stage.group = c.group;
    stage.scale = c.scale, stage.exact = c.exact, stage.epilogue = c.epilogue;
    stage.residual = residual.get();
    const int at_once = rows_at_once(stage);
    const bool tiles = takes_row_tiles(stage, c.rows);
    OnDevice<uint8_t> digits(tiles ? row_tile_bytes(c.rows, c.in) : digit_bytes(c.rows, c.in, c.exact, at_once)),
        steps(tiles ? row_step_bytes(c.rows, c.in) : step_bytes(c.rows, c.in, c.exact, at_once));
    stage.input = {
        .kind = c.kind, .x = x.get(), .norm = norm.get(), .eps = 1e-6f, .rounded = {digits.get(), steps.get()}};
    if (tiles) {
      if (c.kind == StageInput::Kind::digits) stage.input.kind = StageInput::Kind::plain;
      if (!rounds_row_tiles(stage, c.rows)) {
        require(round_row_tiles(stage, nullptr));
        stage.input.kind = StageInput::Kind::tiles;
      }
    } else if (c.kind == StageInput::Kind::digits || !rounds_in_stage(c.rows, c.exact)) {
      if (c.kind == StageInput::Kind::digits) stage.input.kind = StageInput::Kind::plain;
      require(quantize_rows(stage.input, c.rows, c.in, c.exact, at_once, nullptr));
      stage.input.kind = StageInput::Kind::digits;
    }
    OnDevice<uint8_t> workspace(tiles ? row_tile_workspace(stage) : stage_workspace(stage));
    stage.workspace = workspace.get();
    require(launch_stage(stage, nullptr));
    require(cudaDeviceSynchronize());
    return y.read(size_t(c.rows) * size_t(y_cols));
  }

  /// The largest error in units of its bound over a sample of the outputs: at most 1.
  double worst(std::span<const float> y) const {
    const ProductCase& c = c_;
    const bool pair = c.epilogue == ProductStage::Epilogue::silu_mul;
    const int y_cols = pair ? c.outs[0] : total_out();
    double worst = 0;
    for (int row = 0; row < c.rows; ++row) {
      const std::vector<double> x = input(row);
      int column = 0;
      for (size_t t = 0; t < (pair ? 1 : host_.size()); column += c.outs[t], ++t) {
        const int step = std::max(1, c.outs[t] / c.most_outputs);
        for (int i = row % step; i < c.outs[t] + step; i += step) {
          const int out = std::min(i, c.outs[t] - 1);  // the last one too
          Value v = product(host_[t], out, x);
          const size_t at = size_t(row) * size_t(y_cols) + size_t(column + out);
          if (pair) {
            const Value up = product(host_[1], out, x);
            const double silu = v.value / (1 + std::exp(-v.value));
            v = {silu * up.value, 1.1 * v.error * (std::abs(up.value) + up.error) + std::abs(silu) * up.error};
            v.error += 9 * 0x1p-24 * std::abs(v.value);
          } else if (c.epilogue == ProductStage::Epilogue::add) {
            v.value += residual_[at];
            v.error += 2 * 0x1p-24 * (std::abs(residual_[at]) + std::abs(v.value));
          }
          const double off = std::abs(double(y[at]) - v.value);
          worst = std::max(worst, std::isnan(off) ? INFINITY : off / v.error);
        }
      }
    }
    return worst;
  }

 private:
  struct Value {
    double value, error;
  };

  int total_out() const {
    int sum = 0;
    for (int out : c_.outs) sum += out;
    return sum;
  }
  std::vector<float> normal(size_t count, float size) {
    std::normal_distribution<float> draw(0.0f, size);
    std::vector<float> values(count);
    for (float& v : values) v = draw(random_);
    return values;
  }
  /// To what the type of scales holds.
  float narrow(float v) const {
    if (c_.scale == ScaleType::f16) return f16_to_f32(f32_to_f16(v));
    if (c_.scale == ScaleType::bf16) return bf16_to_f32(f32_to_bf16(v));
    return v;
  }
  HostMatrix make(int out) {
    HostMatrix m;
    const size_t groups = size_t(out) * size_t(c_.in / c_.group);
    m.codes.resize(size_t(out) * size_t(c_.in / 32 * 4 * c_.bits));
    for (std::byte& b : m.codes) b = std::byte(random_());
    const float top = float((1 << c_.bits) - 1);
    m.scales = normal(groups, 0.1f / top);
    m.biases.resize(groups);
    for (size_t i = 0; i < groups; ++i) {
      m.scales[i] = narrow(m.scales[i]);
      m.biases[i] = narrow(-m.scales[i] * top / 2);
    }
    m.bias = normal(size_t(out), 1.0f);
    return m;
  }
  std::vector<std::byte> stored(const std::vector<float>& values) const {
    std::vector<std::byte> bytes;
    for (float v : values) {
      std::byte piece[4];
      const uint16_t half = c_.scale == ScaleType::f16 ? f32_to_f16(v) : f32_to_bf16(v);
      const bool wide = c_.scale == ScaleType::f32;
      std::memcpy(piece, wide ? static_cast<const void*>(&v) : &half, wide ? 4 : 2);
      bytes.insert(bytes.end(), piece, piece + (wide ? 4 : 2));
    }
    return bytes;
  }
  std::vector<double> input(int row) const {
    std::vector<double> x(size_t(c_.in));
    double squares = 0;
    for (int i = 0; i < c_.in; ++i) {
      x[size_t(i)] = x_[size_t(row) * size_t(c_.in) + size_t(i)];
      squares += x[size_t(i)] * x[size_t(i)];
    }
    if (c_.kind == StageInput::Kind::rms_norm)
      for (int i = 0; i < c_.in; ++i) x[size_t(i)] *= norm_[size_t(i)] / std::sqrt(squares / c_.in + 1e-6);
    return x;
  }
  Value product(const HostMatrix& m, int out, const std::vector<double>& x) const {
    const ProductCase& c = c_;
    std::vector<uint8_t> codes(static_cast<size_t>(c.in));
    const size_t row_bytes = size_t(c.in / 32 * 4 * c.bits);
    unpack_codes(std::span(m.codes).subspan(size_t(out) * row_bytes, row_bytes), c.bits, 0, codes);
    const double steps = c.exact ? 266330112.0 : 16256.0;
    double value = 0, size = 0, weighted = 0, off = 0;
    for (int first = 0; first < c.in; first += 64) {
      double largest = 0, weights = 0;
      for (int i = first; i < std::min(first + 64, c.in); ++i) {
        const size_t group = size_t(out) * size_t(c.in / c.group) + size_t(i / c.group);
        const double s = m.scales[group], b = m.biases[group], q = codes[size_t(i)], v = x[size_t(i)];
        value += v * (s * q + b);
        size += std::abs(v) * (std::abs(s) * q + std::abs(b));
        weighted += std::abs(v) * std::abs(s * q + b);
        weights += std::abs(s * q + b);
        largest = std::max(largest, std::abs(v));
      }
      off += 0.504 * largest / steps * weights;
    }
    if (c.exact) off += 0x1p-22 * weighted;
    if (c.kind == StageInput::Kind::rms_norm) off += (rounding(c.in) / 2 + 8 * 0x1p-24) * weighted;
    const double terms = 2.0 * c.in / std::min(c.group, 64) + 3;
    Value v = {value, off + (rounding(terms) + 8 * 0x1p-24) * size};
    if (c.bias) {
      v.value += m.bias[size_t(out)];
      v.error += 2 * 0x1p-24 * (std::abs(m.bias[size_t(out)]) + std::abs(v.value));
    }
    return v;
  }

  ProductCase c_;
  std::mt19937 random_;
  std::vector<float> norm_, x_, residual_;
  std::vector<HostMatrix> host_;
};

}  // namespace bumblebee::cuda
