// Forward operations, at the grain where backends really differ. Arguments are already checked by nn; a backend only
// computes. Outputs come from the backend's pool; the bound batch is the only state between calls. What each means is
// spelled out in backend/ref/math.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "backend/kv_store.h"
#include "backend/lora.h"
#include "backend/weight.h"
#include "tensor/tensor.h"

namespace bumblebee {

/// y = x/rms(x)·w over each run of as many features as `w` has, f32 [1, width]; the width divides the columns.
struct NormParams {
  Tensor w;
  float eps = 1e-6f;
};

/// Rotation of `dims` features of a head, from `first` on, in half-split pairs (i, i + dims/2) or `interleaved` ones
/// (2i, 2i + 1), by position·inv_freq[i]. Rotated features are multiplied by `attention_factor` (yarn's).
struct RopeParams {
  int dims = 0;
  std::vector<float> inv_freq;  // [dims/2]
  float attention_factor = 1;
  int first = 0;
  bool interleaved = false;
  /// [dims/2] or empty: in place of inv_freq in segments that are `stretched` (longrope's).
  std::vector<float> long_inv_freq = {};
  /// Queries are multiplied by 1 + query_growth·ln(1 + floor(position/query_span)) as well; 0: they are not.
  float query_growth = 0;
  int query_span = 1;

  /// That factor, rounded once.
  float query_factor(int position) const {
    return float(1 + double(query_growth) * std::log1p(double(position / query_span)));
  }
};

/// Causal attention with grouped heads: query head h reads key head h·kv_heads/heads. A key at distance >= window is
/// not seen; 0: all. With a `value_dim` values are the first so many features of keys, which are cached once.
struct AttentionParams {
  int heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 1;
  int window = 0;
  /// f32 [1, heads] or empty: of each head a logit more, which takes its share of the softmax and has no value.
  Tensor sinks = {};
  float soft_cap = 0;  // a score s becomes soft_cap·tanh(s/soft_cap); 0: stays
  int value_dim = 0;   // 0: values are apart, and as wide as keys

  int values() const { return value_dim > 0 ? value_dim : head_dim; }

  /// The first position that a query at `position` sees.
  int first_visible(int position) const { return window > 0 ? std::max(0, position - window + 1) : 0; }
};

/// Of clamped_silu: gate at most the limit and up within it on both sides; gate·sigmoid(slope·gate)·(up + 1).
inline constexpr float kClampLimit = 7.0f, kClampSlope = 1.702f;

/// x·sigmoid(x), gelu as tanh approximates it, x·(1 + tanh(sqrt(2/π)·(x + 0.044715x³)))/2, 1/(1 + exp(-x)), or x.
enum class Activation : uint8_t { silu, gelu, sigmoid, clamped_silu, identity };

/// How columns are dealt out. Those of x are `groups` of one size, each made of these pieces, one after the other.
/// Output i has the pieces that go to i, in order, each of all groups before the next.
struct SplitParams {
  struct Piece {
    int cols = 0, to = 0;
  };
  int groups = 1;
  std::vector<Piece> pieces;
  /// Columns of one group.
  int group_cols() const {
    int cols = 0;
    for (const Piece& piece : pieces) cols += piece.cols;
    return cols;
  }
};

/// Causal convolution of each column with weights of its own, then silu: y[t] = silu(Σ w[j]·x[t - kernel + 1 + j]), or
/// the sum itself. What lies before a sequence's first row is zero.
struct ConvParams {
  Tensor w;  // f32 [kernel, cols]
  bool silu = true;
};

/// The gated delta rule (ref/delta_math.h spells it out). Value head h has key head h·key_heads/value_heads.
struct DeltaParams {
  int key_heads = 0, value_heads = 0, key_dim = 0, value_dim = 0;
  Tensor a_log, dt_bias;  // f32 [1, value_heads]

  int key_cols() const { return key_heads * key_dim; }
  int value_cols() const { return value_heads * value_dim; }
};

/// How a row's scores become a choice among experts. A score is the softmax over all of them or the sigmoid of one.
struct RouterParams {
  enum class Score : uint8_t { softmax, sigmoid };
  Score score = Score::softmax;
  int experts = 0, top_k = 0;
  Tensor bias;  // f32 [1, experts] or empty: added to scores for the choice, not for the weights
  /// Experts lie in `groups` of one size, and only those of the `top_groups` best can be chosen. A group is as good as
  /// the sum of its two best (with their biases), or as its best alone.
  int groups = 1, top_groups = 1;
  bool best_alone = false;
  bool normalise = true;     // weights are divided by their sum
  float scale = 1;           // then multiplied by this
  Tensor expert_scale = {};  // f32 [1, experts] or empty: and by that of the expert
  /// What is added to the sum that weights are divided by, where scores may all be nearly zero.
  double beside_sum = 0;
};

/// Which experts rows go to. A row at one of its experts is an assignment; those of one expert follow each other, rows
/// ascending, experts ascending.
struct Routing {
  Tensor experts;  // i32 [rows, top_k], the best first, of equal ones the lower number
  Tensor weights;  // [rows, top_k]
  Tensor order;    // i32 [rows, top_k]: which assignment it is, below rows·top_k
};

/// What the rows of an expert product's x are.
enum class ExpertRows : uint8_t { batch, assignments };

/// One term of a multiplication that shares x: y = x·Wᵀ (+ bias). `bias` is f32 [1, out] or empty.
struct MatmulTerm {
  const Weight* weight = nullptr;
  const Tensor* bias = nullptr;
};

/// What sample() gives. With T the largest top_logprobs of the batch; the last two are empty where no row asks.
struct Sampled {
  Tensor ids;       // i32 [logit_rows, 1]
  Tensor logprobs;  // f64 [logit_rows, 1 + T], of the chosen token and of the likeliest
  Tensor top_ids;   // i32 [logit_rows, T], likeliest first, equal ones by id
};

class Ops {
 public:
  virtual ~Ops() = default;

  /// Rows of `table` for the tokens of the bound batch -> [rows, in].
  virtual Tensor embed(const Weight& table) = 0;

  /// y[i] = x·W[i]ᵀ + bias[i] -> [x.rows, out[i]]. Several terms share x, so that it is read and prepared once.
  virtual void matmul(const Tensor& x, std::span<const MatmulTerm> terms, std::span<Tensor> y) = 0;

  /// Applies adapters to y[i], which holds x·W[i]ᵀ, row by row as the bound batch's slots and the backend's table say
  /// (LoraEntry). `rows` says which rows x and y hold. A bias that a module names is added to every row: after the
  /// terms and the factor where the entry comes before it, else first, as a product adds it; so a row's sums have one
  /// order, whatever its batch mates make necessary. Rows without an entry are otherwise untouched.
  virtual void lora(const Tensor& x, RowSet rows, std::span<const LoraModule> modules, std::span<Tensor> y) = 0;
  /// The same for the rows of an embedding [rows, dims], which embed() made.
  virtual void lora_embed(int site, Tensor& y) = 0;
  /// rms_norm of each run of `width` features, with the weight of the row's entry where it has one. `width` divides the
  /// columns: a norm per head is the same operation, and covers as many of its first features as the norm has; others
  /// stay.
  virtual Tensor lora_norm(const Tensor& x, RowSet rows, int width, const NormParams& norm, int site) = 0;

  virtual Tensor rms_norm(const Tensor& x, const NormParams& norm) = 0;

  /// x += delta, then rms_norm(x): one pass over memory. `x` is replaced by its new value, in place when this is the
  /// last handle. A delta that is given away need never exist: a backend may add where it is made.
  virtual Tensor add_rms_norm(Tensor& x, Tensor delta, const NormParams& norm) = 0;

  /// x += delta without a norm.
  virtual void add(Tensor& x, Tensor delta) = 0;

  /// Per head: the optional norm (null: none) over its first features, as many as the norm has, then rope at the bound
  /// batch's positions. q [rows, heads·head_dim], k [rows, kv_heads·head_dim] or empty, replaced as in add_rms_norm.
  virtual void norm_rope(Tensor& q, Tensor& k, int head_dim, const NormParams* q_norm, const NormParams* k_norm,
                         const RopeParams& rope) = 0;

  /// Appends k and v to the layer's cache at the bound batch's pages, then attends: -> [rows, heads·values()]. Without
  /// k and v nothing is appended: a layer before it, which shares the cache, has done so. With values within keys v is
  /// empty.
  virtual Tensor attend(KvStore& kv, int layer, const Tensor& q, const Tensor& k, const Tensor& v,
                        const AttentionParams& attention) = 0;

  /// Deals columns out as `split` says -> y[i] [x.rows, ...].
  virtual void split(const Tensor& x, const SplitParams& split, std::span<Tensor> y) = 0;

  /// The convolution over each segment's rows -> [rows, cols]. The last kernel - 1 rows of x are read from and written
  /// to the states that segments name.
  virtual Tensor causal_conv(KvStore& kv, int layer, const Tensor& x, const ConvParams& conv) = 0;

  /// The delta rule over each segment's rows -> [rows, value_cols]. qkv [rows, 2·key_cols + value_cols]; `a`, which
  /// makes the decay, and `b`, which makes beta, [rows, value_heads]. States as in causal_conv().
  virtual Tensor delta_rule(KvStore& kv, int layer, const Tensor& qkv, const Tensor& a, const Tensor& b,
                            const DeltaParams& delta) = 0;

  /// act(gate)·up, elementwise. Like delta, gate and up may be given away.
  virtual Tensor glu(Activation activation, Tensor gate, Tensor up) = 0;

  /// x ·= factor, replaced as in add_rms_norm.
  virtual void multiply(Tensor& x, float factor) = 0;
  /// x = cap·tanh(x/cap), replaced as in add_rms_norm.
  virtual void soft_cap(Tensor& x, float cap) = 0;
  /// Columns [first, first + count) -> [rows, count].
  virtual Tensor columns(const Tensor& x, int first, int count) = 0;

  /// Chooses for each row of `logits` [rows, experts] as the router says. Weights are those of softmax or sigmoid
  /// before the bias. Whatever the values, NaN too, numbers of experts are valid and differ.
  virtual Routing route(const Tensor& logits, const RouterParams& router) = 0;

  /// y[i] = W[i][e]·x for every assignment to an expert e -> [rows·top_k, out[i]], from x [rows, in], or from x
  /// [rows·top_k, in] whose rows are assignments. The matrices of a chosen expert are read once, others not at all.
  /// Stacks share x, so that it is read and prepared once.
  virtual void matmul_experts(const Tensor& x, ExpertRows rows, const Routing& routing,
                              std::span<const Weight* const> stacks, std::span<Tensor> y) = 0;

  /// Applies adapters of experts to y[i] [rows·top_k, out[i]], which holds the products of matmul_experts by the same
  /// x, rows and routing, of the module sites[i]: the terms of an assignment's expert, as its row's slot and the
  /// backend's table say (LoraEntry::experts). Factors of experts that nobody chose are not read. Assignments without
  /// terms are untouched.
  virtual void lora_experts(const Tensor& x, ExpertRows rows, const Routing& routing, std::span<const int> sites,
                            std::span<Tensor> y) = 0;

  /// y += bias[e] for every assignment to an expert e, y [rows·top_k, cols]; `bias` is f32 [1, experts·cols], one
  /// expert after the other. `y` is replaced as in add_rms_norm.
  virtual void add_expert_bias(Tensor& y, const Routing& routing, const Tensor& bias) = 0;

  /// Σ weight·y over a row's assignments, the best expert first: y [rows·top_k, cols] -> [rows, cols].
  virtual Tensor sum_experts(const Tensor& y, const Routing& routing) = 0;

  /// W[h]·x for the first W.in features of each head h of x [rows, heads·(in + rest)], followed by the `rest` as they
  /// are: -> [rows, heads·(out + rest)]. `heads` is a stack; `transposed`: W[h]ᵀ·x, so that in and out change places.
  virtual Tensor matmul_heads(const Tensor& x, const Weight& heads, bool transposed, int rest) = 0;

  /// Applies adapters of heads to y, which holds what matmul_heads made of the same x with `heads` matrices and `rest`,
  /// of module `site`: the terms of each head (LoraEntry::experts), as a row's slot and the backend's table say. What
  /// follows the products, and rows without an entry, are untouched. `y` is replaced as in add_rms_norm.
  virtual void lora_heads(const Tensor& x, int site, int heads, int rest, Tensor& y) = 0;

  /// y·sigmoid(gate) for each row, gate [rows, 1]. `y` may be given away.
  virtual Tensor gate_rows(Tensor y, const Tensor& gate) = 0;

  /// The rows of x that the bound batch wants.
  virtual Tensor gather_rows(const Tensor& x) = 0;
  /// Until the next bind(), the bound batch is what gather_rows() takes of it (Batch::keep_logit_rows). For layers that
  /// only read what others have cached.
  virtual void keep_logit_rows() = 0;

  /// Chooses a token for each row of logits [logit_rows, vocab], as Batch::sample says (backend/sample.h). An id is -1
  /// where a logit is NaN or +infinity, -2 where every token is masked, -3 where nobody asked. Logprobs that nobody
  /// asked for or that an id below 0 has not are -infinity, the ids beside them -1.
  virtual Sampled sample(const Tensor& logits) = 0;
  /// The same values in memory of their own: for who goes on to write in place what others still read.
  virtual Tensor copy(const Tensor& x) = 0;
};

}  // namespace bumblebee
