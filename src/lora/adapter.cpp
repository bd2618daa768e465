// What every adapter can say of itself.
#include "lora/adapter.h"

namespace bumblebee::lora {

Matrix transposed(const Matrix& m) {
  Matrix t{m.cols, m.rows, std::vector<float>(m.values.size())};
  for (size_t r = 0; r < size_t(m.rows); ++r) {
    for (size_t c = 0; c < size_t(m.cols); ++c) t.values[c * size_t(m.rows) + r] = m.values[r * size_t(m.cols) + c];
  }
  return t;
}

FactorView view(const LowRank& low, int expert) {
  const size_t rank = size_t(low.rank()), out = size_t(low.out()), e = size_t(expert);
  const size_t a = rank * size_t(low.a.cols), b = out * rank;
  return {low.rank(), std::span(low.a.values).subspan(e * a, a), std::span(low.b.values).subspan(e * b, b), low.b_bias,
          low.scale};
}

std::string_view to_string(Kind kind) {
  switch (kind) {
    case Kind::lora: return "lora";
    case Kind::dora: return "dora";
    default: return "full";
  }
}

std::string_view to_string(Dialect dialect) { return dialect == Dialect::mlx ? "mlx-lm" : "PEFT"; }

uint64_t size_bytes(const Adapter& adapter) {
  uint64_t values = 0;
  for (const auto& [path, change] : adapter.modules) {
    if (change.low_rank) {
      const LowRank& low = *change.low_rank;
      values += low.a.values.size() + low.b.values.size() + low.b_bias.size() + low.magnitude.size();
    }
    if (change.weight) values += change.weight->values.size();
    if (change.bias) values += change.bias->size();
  }
  return values * sizeof(float);
}

int set_scale(Adapter& adapter, float scale) {
  int scaled = 0;
  for (auto& [path, change] : adapter.modules) {
    if (!change.low_rank) continue;
    change.low_rank->scale = scale;
    ++scaled;
  }
  return scaled;
}

}  // namespace bumblebee::lora
