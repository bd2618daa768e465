// An adapter as every reader hands it out: one convention, whatever wrote it. mlx-lm's factors are transposed on
// reading, PEFT's alpha/r is resolved, module paths are the base's. Knows no device; bind_to_base.h holds it against a
// base.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lora/targets.h"

namespace bumblebee::lora {

/// Row-major f32 on the host.
struct Matrix {
  int rows = 0, cols = 0;
  std::vector<float> values;  // [rows, cols]
  friend bool operator==(const Matrix&, const Matrix&) = default;
};

/// mᵀ.
Matrix transposed(const Matrix& m);

/// A linear: y = W x + scale·(B(A x) + b_bias).
/// An embedding (table W [vocab, dims]): e(t) = W[t] + scale·B A[:, t].
/// DoRA (magnitude m): y = m/|W + scale·B A| ∘ (W x + scale·B A x) + bias, the norm over each row of W [out, in].
/// A stack of experts: y = W[e] x + scale·B[e](A[e] x), each expert's factors below those of the one before.
struct LowRank {
  Matrix a;                      // [rank, in];  embedding: [rank, vocab]; stack: [experts·rank, in]
  Matrix b;                      // [out, rank]; embedding: [dims, rank];  stack: [experts·out, rank]
  float scale = 0;               // the number that multiplies B(A x): never to be divided by the rank again
  std::vector<float> b_bias;     // PEFT's lora_bias: [out]; empty: none
  std::vector<float> magnitude;  // DoRA's m: [out]; empty: none. Embedding: mlx-lm has one per token, |W + ΔW| over a
                                 // row of the table [vocab]; PEFT one per feature, over a column [dims].
  int experts = 0;               // of a stack; 0: it is none

  int rank() const { return b.cols; }
  int out() const { return experts > 0 ? b.rows / experts : b.rows; }
  friend bool operator==(const LowRank&, const LowRank&) = default;
};

/// What an adapter does to one module: a linear, the head, the embedding, a norm or a stack of experts. At least one
/// part is there. With both, low_rank is added to the replaced weight (PEFT saves an embedding beside its factors).
struct ModuleDelta {
  std::optional<LowRank> low_rank;
  std::optional<Matrix> weight;            // replaces W [out, in]; an embedding: [vocab, dims]; a norm: [1, size]
  std::optional<std::vector<float>> bias;  // replaces the module's bias [out]
  bool shared_weight = false;  // `weight` is the base's own, saved along by PEFT: a tied head gets it as well
  friend bool operator==(const ModuleDelta&, const ModuleDelta&) = default;
};

/// The factors of one expert of a stack, or of a linear: a view.
struct FactorView {
  int rank = 0;                       // 0: nothing is changed
  std::span<const float> a, b, bias;  // [rank, in] [out, rank] [out] or empty
  float scale = 0;
};
/// Of a stack the factors of expert `expert`; of a linear, whose only one is 0, all.
FactorView view(const LowRank& low_rank, int expert = 0);

/// What PEFT puts before the name of every module in its files of tensors.
inline constexpr std::string_view kPeftPrefix = "base_model.model.";

enum class Kind : uint8_t { lora, dora, full };
enum class Dialect : uint8_t { mlx, peft };

std::string_view to_string(Kind kind);        // "lora", "dora", "full"
std::string_view to_string(Dialect dialect);  // "mlx-lm", "PEFT"

/// What an adapter holds, in 128 bits of BLAKE2b. All zeros: nothing (the base), or not known yet.
struct AdapterId {
  std::array<uint8_t, 16> bytes{};
  friend auto operator<=>(const AdapterId&, const AdapterId&) = default;
};
std::string to_string(const AdapterId& id);  // 32 hexadecimal digits

struct Adapter {
  std::string name;  // for people; not an identity
  AdapterId id;      // of what it holds; identify() fills it
  Dialect dialect = Dialect::mlx;
  Kind kind = Kind::lora;
  std::map<std::string, ModuleDelta>
      modules;  // by module path as in the base: "model.layers.0.self_attn.q_proj", "lm_head"

  std::string where;                         // the file of the tensors, for messages
  std::string base;                          // the base's name, as the config has it; empty when it has none
  std::optional<Targets> targets;            // what the config says was trained; empty when it does not say
  std::map<std::string, std::string> facts;  // of the config, for people: "r", "lora_alpha", "num_layers", ...
};

/// Bytes that the contents take as f32.
uint64_t size_bytes(const Adapter& adapter);
/// Replaces the scale of every low-rank part: what a caller's `scale` means. Adapters without one (full) are left as
/// they are; returns how many modules were scaled.
int set_scale(Adapter& adapter, float scale);

}  // namespace bumblebee::lora
