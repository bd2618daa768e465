// The table of kernels that one instruction set fills. Kernels are pure: raw pointers and sizes in, nothing allocated,
// no threads, no errors. This header is all that the per-ISA files share with the rest, so it includes nothing that
// could leak inline code.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bumblebee::cpu {

/// Sums over k are formed in blocks of this many elements, each block in 16 lanes, whatever the instruction set and the
/// number of rows. That is what makes a row's result independent of its batch (docs/internals/numerics.md).
inline constexpr int kDepthBlock = 1024;
/// Rows of x that a matvec kernel takes at once; more go through decoded panels.
inline constexpr int kMatvecRows = 4;
/// Activations of the fast mode are quantized with one scale for so many (docs/internals/numerics.md). The scale is
/// such that all of them fit int8 but the largest kOutliers, which are 128·high + low with both bytes in int8.
inline constexpr int kQuantGroup = 64;
inline constexpr int kOutliers = 2;
/// Inputs whose codes of four bits are a cache line: a chunk of a row.
inline constexpr int kNibbleChunk = 128;
/// Blocks of a stripe. The fast mode sums a row in so many lanes: lane i takes block i of every stripe, in order; then
/// lanes are added in order (docs/internals/kernels.md draws it).
inline constexpr int kLanes = 16;
/// The int8 products take this many rows of x at once, and of weights.
inline constexpr int kInt8Rows = 512;
inline constexpr int kInt8Cols = 64;
inline constexpr int kInt8Depth = 4096;  // inputs of kInt8Cols rows whose codes are kept at once; of fewer rows, more
/// Lanes that a chunk's blocks belong to, at most: four blocks of 32.
inline constexpr int kChunkLanes = 4;

/// i8: cached keys and values only, with scales beside; the last two: scales of float codes only.
enum class Element : uint8_t { f32, f16, bf16, i8, e8m0, e4m3 };

/// Rows of a weight as they lie in the file; no alignment is promised.
struct WeightRows {
  const uint8_t* codes = nullptr;   // affine: packed codes; dense: elements
  const uint8_t* scales = nullptr;  // affine: [out, in/group]
  const uint8_t* biases = nullptr;
  size_t row_bytes = 0;  // of codes
  int in = 0;
  int bits = 0;  // 0: dense
  int group = 0;
  bool floats = false;                  // codes are e2m1 (4 bits) or e4m3 (8 bits); there are no biases
  Element element = Element::f32;       // dense: of the elements; affine: of the scales
  Element bias_element = Element::f32;  // affine: of the biases
  float factor = 1;                     // float codes: of all scales
};

/// Of int8 products: twice an e2m1 code is a whole number, and so much more than that is an unsigned code, whose scale
/// is half of the group's and whose bias is the same for all. Such codes have kE2m1Bits bits.
inline constexpr int kE2m1Offset = 12, kE2m1Bits = 5;

/// How weights want int8 activations: sums over a block of 32 or 64 values meet the biases; with `nibbles`, even values
/// come before odd ones, as the low and the high halves of bytes do.
struct QuantLayout {
  bool nibbles = false;
  int block = 64;
  friend bool operator==(const QuantLayout&, const QuantLayout&) = default;
};
inline QuantLayout quant_layout(const WeightRows& w) { return {w.bits == 4, w.group < 64 ? w.group : 64}; }

/// An outlier's high byte, for panels, whose products take four inputs of a block at a time (a step). `quad` is what
/// such a product multiplies by: four bytes, zero but for the outlier's. `step` says which four inputs of the block
/// they meet; with `nibbles` a block's even inputs are numbered before its odd ones.
struct Outlier {
  uint32_t quad = 0, step = 0;
};

/// Inputs of a row that can be quantized apart from the others: whole stripes in every layout.
inline constexpr int kQuantPart = 64 * kLanes;

/// Blocks of a row, rounded up to whole stripes of lanes.
inline int padded_blocks(int in, QuantLayout layout) {
  return (in + kLanes * layout.block - 1) / (kLanes * layout.block) * kLanes;
}

/// Where one row is quantized to, with room for padded_blocks(count). Few rows, which read weights as they lie
/// (Kernels::direct_rows), have blocks in order, the values of every kNibbleChunk inputs with even ones first, and
/// `high`. More rows, which go through panels, have blocks lane by lane, each with its own even values first, and
/// either `outliers` or, where the panels multiply all high bytes (Kernels::dense_high), `high` and its shifts. Blocks
/// past the end have a scale and a sum of zero.
struct QuantRow {
  bool by_lane = false;
  int8_t* values = nullptr;  // low bytes, 64-byte aligned
  int8_t* high = nullptr;    // high bytes: in order, as a set wants them (BB_ISA_OUTLIERS); by lane, where low ones are
  float* scales = nullptr;   // [blocks]; blocks of a group have the same
  float* sums = nullptr;     // [blocks], scale·Σ of both bytes
  Outlier* outliers = nullptr;     // [blocks, kOutliers]; those that are not used have a quad of zero
  uint8_t* high_shifts = nullptr;  // [blocks]: sums of `high` count 2^that; kFoldedShift where it holds 8 times itself
};
/// Where high bytes of a block are small enough, eight times them, times sixteen times a code of four bits, still are
/// products of bytes, and add up with those of low bytes.
inline constexpr int kHighShift = 7, kFoldedShift = 4;

/// Quantized activations [rows, in], row by row as in QuantRow; strides are in elements. Rows of high bytes follow
/// those of low ones. kRowRead more bytes can be read after the last row.
inline constexpr size_t kRowRead = 1024;
struct QuantRows {
  const int8_t* values = nullptr;
  const float* scales = nullptr;
  const float* sums = nullptr;
  const Outlier* outliers = nullptr;
  const uint8_t* high_shifts = nullptr;
  size_t stride = 0, block_stride = 0;  // of values; of scales, sums, shifts and pairs of outliers
  const uint8_t* tiles = nullptr;       // the same rows as Kernels::tile_rows() lays them out, or null
  /// From row r on.
  QuantRows from(int r) const {
    QuantRows out = *this;
    out.tiles = nullptr;
    out.values += size_t(r) * stride;
    out.scales += size_t(r) * block_stride;
    out.sums += size_t(r) * block_stride;
    if (outliers != nullptr) out.outliers += size_t(r) * block_stride * kOutliers;
    if (high_shifts != nullptr) out.high_shifts += size_t(r) * block_stride;
    return out;
  }
};

/// Weight rows that meet rows of x in tiles at once, where x lies as such (QuantRows::tiles).
inline constexpr int kTiledCols = 32;

/// Panels that a product with tiles takes together, so that the part of x that one lane meets is read once for all.
inline constexpr int kTilePanels = 3;

/// Sums on their way out of a processor's tiles.
inline constexpr size_t kTileScratch = size_t(8) * 8192;

/// Bytes of scratch that matmul_int8 needs: a panel of codes, of kInt8Depth inputs or of all inputs of sixteen rows,
/// its scales and biases; and, where a processor has tiles of its own, sums and rows of x beside those. The last are 64
/// bytes an input, more than a long row's panel has.
inline size_t int8_scratch(const WeightRows& w) {
  const size_t groups = (size_t(w.in / w.group) + kLanes - 1) / kLanes * kLanes;
  const size_t blocks = size_t(padded_blocks(w.in, quant_layout(w)));
  return size_t(kTilePanels + kChunkLanes) * kInt8Rows * kInt8Cols * 4 + size_t(kInt8Cols) * kInt8Depth +
         kTilePanels * 2 * groups * kInt8Cols * 4 + kTileScratch + blocks * kInt8Rows * 8 + blocks * kInt8Rows / 32;
}

/// Rows of f32.
struct FloatRows {
  const float* data = nullptr;
  size_t stride = 0;
};

/// C [rows, cols] = A [rows, depth] · B [depth, cols], added to C when `accumulate`. B's elements are `element`, i8 as
/// whole numbers.
struct SmallGemm {
  const float* a = nullptr;
  size_t a_stride = 0;
  const void* b = nullptr;
  size_t b_stride = 0;  // elements
  Element element = Element::f32;
  float* c = nullptr;
  size_t c_stride = 0;
  int rows = 0, cols = 0, depth = 0;
  bool accumulate = false;
  const void* next = nullptr;  // as many bytes as b has, which will be read soon: prefetched meanwhile
};

/// C [rows, cols] = scale[r]·(A·B), added to keep[r]·C where `keep` is given. A has words of 16 bits, [rows, 2·pairs],
/// with magnitudes of 32,767 at most, B bytes in pairs that follow each other in depth, [pairs][b_stride][2]. Sums are
/// whole numbers of 32 bits: pairs <= kWordPairs.
inline constexpr int kWordPairs = 256;
struct WordGemm {
  const int16_t* a = nullptr;
  size_t a_stride = 0;  // words, even
  const float* scale = nullptr;
  const int8_t* b = nullptr;
  size_t b_stride = 0;  // pairs
  float* c = nullptr;
  size_t c_stride = 0;
  int rows = 0, cols = 0, pairs = 0;
  const float* keep = nullptr;
  const void* next = nullptr;  // as in SmallGemm
};

/// Scores of one query with the tokens of an int8 page on their way to weights of its values, in words. `scores`
/// [count], a multiple of 16, are overwritten; tokens outside of [low, high) get no weight. `highest` and `total` are
/// those of a running softmax.
struct WordSoftmax {
  float* scores = nullptr;
  int count = 0, low = 0, high = 0;
  const float *key_scales = nullptr, *value_scales = nullptr;
  float scale = 0, soft_cap = 0;  // 0: none
  float *highest = nullptr, *total = nullptr;
  int16_t* weights = nullptr;
};
/// What one step of a weight is, and what earlier sums shrink by.
struct WordWeights {
  float step = 0, keep = 1;
};

/// The same where values meet weights as they are: scores [count] become e^(score·scale - highest) in [low, high), and
/// zero elsewhere.
struct PageSoftmax {
  float* scores = nullptr;
  int count = 0, low = 0, high = 0;
  float scale = 0;
  float *highest = nullptr, *total = nullptr;
};

/// C [rows, cols] = (A + rest of A)·B, added to C when `accumulate`. A has bf16 [rows, depth], and so has what its
/// rounding left, where it is given. B has pairs that follow each other in depth, [depth/2][b_stride][2]; of an odd
/// depth's last pair only the first counts, and what the second holds may be no number. cols is a multiple of 16.
struct PairGemm {
  const uint16_t *a = nullptr, *rest = nullptr;
  size_t a_stride = 0;  // elements, even
  const uint32_t* b = nullptr;
  size_t b_stride = 0;  // pairs
  float* c = nullptr;
  size_t c_stride = 0;
  int rows = 0, cols = 0, depth = 0;
  bool accumulate = false;
  const void* next = nullptr;  // as in SmallGemm
};

/// u[r, i] = Σ_k x[r, k]·a[i, k] for `ranks` rows of a; the sum has the order of matvec. a is f32 or bf16.
struct LoraShrink {
  const uint8_t* a = nullptr;
  Element element = Element::f32;
  size_t a_stride = 0;  // elements
  int ranks = 0;
  FloatRows x;
  int rows = 0, depth = 0;
  float* u = nullptr;
  size_t u_stride = 0;
};

/// y[r, n] += scale·(bias[n] + Σ_i u[r, i]·b[n, i]) for n in [first, last), i in order; `first` is a multiple of 16. b
/// is f32 or bf16 in blocks of 16 outputs, [out/16][rank][16]; it and `bias` (or null) are padded to whole blocks.
struct LoraExpand {
  const uint8_t* b = nullptr;
  Element element = Element::f32;
  int rank = 0;
  const float* bias = nullptr;
  float scale = 0;
  FloatRows u;
  int rows = 0;
  float* y = nullptr;
  size_t y_stride = 0;
  int first = 0, last = 0;
};

/// Columns of a tile of pairs.
inline constexpr int kPairCols = 64;

/// C [rows, cols] = A·B in bf16 with sums in f32, added to C when `accumulate`. The depth is that of `pairs` pairs: A
/// [rows, 2·pairs], and B in tiles of kPairCols columns, [pairs][kPairCols] of two elements that follow each other in
/// depth, the first in the low half. Columns of B are padded with zeros to a multiple of 16. The sum runs over pairs in
/// order.
struct Bf16Gemm {
  const uint16_t* a = nullptr;
  size_t a_stride = 0;  // elements, even
  const uint32_t* b = nullptr;
  size_t b_tile = 0;  // from tile to tile
  float* c = nullptr;
  size_t c_stride = 0;
  int rows = 0, cols = 0, pairs = 0;
  bool accumulate = false;
};

/// Which elements of a tensor GradOps::dropout keeps (backend/dropout.h).
struct DropoutMask {
  uint64_t key = 0, counter_high = 0;
  uint32_t threshold = 0;
  float scale = 1;
};

/// Rows that a convolution reads, at most.
inline constexpr size_t kMostKernel = 16;
/// Added to the sum of squares of a key or query before its root.
inline constexpr float kDeltaEps = 1e-6f;

/// Columns of a head's state that the delta rule takes at once. They depend on no other columns, and [key_dim,
/// kDeltaCols] f32 of them stay in the nearest cache however many rows there are.
inline constexpr int kDeltaCols = 32;

/// The gated delta rule for `rows` rows that follow each other, and `cols` <= kDeltaCols columns of one head. q and k
/// [rows, key_dim] have their lengths already; `meet` is q·k of each row. The state goes from `from` (null: zeros) to
/// `to`, both [key_dim, kDeltaCols]; columns beyond `cols` stay zero.
struct DeltaRule {
  const float *q = nullptr, *k = nullptr;
  size_t key_stride = 0;
  const float* v = nullptr;
  size_t v_stride = 0;
  const float *decay = nullptr, *beta = nullptr;  // of each row
  size_t gate_stride = 0;
  const float* meet = nullptr;
  size_t meet_stride = 0;
  const float* from = nullptr;
  float* to = nullptr;
  float* out = nullptr;
  size_t out_stride = 0;
  int rows = 0, key_dim = 0, cols = 0;
};

/// One row of one head of the delta rule, all of its columns, from one state [key_dim, cols] to another, which may be
/// the same. `missing` becomes what the value is beyond what the state knows of it. cols is a multiple of 16.
struct DeltaStep {
  const float *k = nullptr, *v = nullptr;
  float decay = 0, beta = 0;
  const float* from = nullptr;
  float *to = nullptr, *missing = nullptr;
  int key_dim = 0, cols = 0;
};
/// The way back through it: `dstate` goes in as the gradient of the state that it made and comes out as that of the one
/// that it found, `from`. dq, dk [key_dim] and dv [cols] are made.
struct DeltaStepDx {
  const float *q = nullptr, *k = nullptr, *dout = nullptr, *missing = nullptr, *from = nullptr;
  float decay = 0, beta = 0;
  float *dstate = nullptr, *dq = nullptr, *dk = nullptr, *dv = nullptr;
  int key_dim = 0, cols = 0;
};
struct DeltaGates {
  float decay = 0, beta = 0;
};

struct Kernels {
  const char* name;

  /// y[r·y_stride + n] for weight rows n in [first, last) and x rows r in [0, rows), rows <= kMatvecRows; decodes in
  /// registers.
  void (*matvec)(const WeightRows& w, int first, int last, const FloatRows& x, int rows, float* y, size_t y_stride);
  /// out [last - first, k1 - k0] f32 = the decoded elements; k0 is a multiple of 128.
  void (*decode)(const WeightRows& w, int first, int last, int k0, int k1, float* out, size_t out_stride);
  /// y[r, n] += Σ_k x[r, k]·w[n, k] over `depth` <= kDepthBlock elements; the sum has the order of matvec.
  void (*dot_block)(const FloatRows& x, int rows, const FloatRows& w, int cols, int depth, float* y, size_t y_stride);

  /// Fast mode: inputs [first, last) of the `count` of x to int8; first is a multiple of kQuantPart, and so is last
  /// where it is not count. Magnitudes below 2^-100 may count as zero.
  void (*quantize)(const float* x, int first, int last, int count, QuantLayout layout, const QuantRow& out);
  /// Rows of x up to which matmul_int8 wants them in order and with high bytes.
  int direct_rows;
  /// Whether more rows want high bytes too, in the places of low ones, in place of outliers.
  bool dense_high;
  /// Rows of x up to which, beyond direct_rows, x may be laid out as tiles as well: once, for all threads. 0 where a
  /// set has no use for it; the next three are null then.
  int tiled_rows;
  /// Whether matmul_int8 reads QuantRows::tiles for this weight.
  bool (*takes_tiles)(const WeightRows& w);
  size_t (*tile_bytes)(int rows, int in);
  /// Blocks [first, last) of x, which lies lane by lane.
  void (*tile_rows)(const QuantRows& x, int rows, int in, int first, int last, uint8_t* out);
  /// As matvec with quantized x, for any number of rows. `scratch` is int8_scratch(w) bytes, 64-byte aligned.
  void (*matmul_int8)(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y, size_t y_stride,
                      void* scratch);
  /// Fast mode for dense bf16 weights: x rounded to bf16.
  void (*round_bf16)(const float* x, int count, uint16_t* out);
  void (*matvec_bf16)(const WeightRows& w, int first, int last, const uint16_t* x, size_t x_stride, int rows, float* y,
                      size_t y_stride);

  void (*small_gemm)(const SmallGemm& g);
  void (*word_gemm)(const WordGemm& g);
  WordWeights (*word_softmax)(const WordSoftmax& s);
  /// Returns what earlier sums shrink by.
  float (*page_softmax)(const PageSoftmax& s);
  /// Fast mode for bf16 pages; null where no instruction multiplies bf16, as is the next one.
  void (*pair_gemm)(const PairGemm& g);
  /// x [count] as the sum of two bf16 numbers, within 2^-16 of its size.
  void (*split_bf16)(const float* x, int count, uint16_t* out, uint16_t* rest);
  void (*rms_norm)(const float* x, const float* w, float eps, int count, float* y);
  void (*add)(float* x, const float* delta, int count);
  /// x[i] *= factors[i]
  void (*multiply)(float* x, const float* factors, int count);
  /// x[i] += factor·delta[i]
  void (*add_scaled)(float* x, const float* delta, float factor, int count);
  void (*scale)(float* x, float factor, int count);
  void (*silu_mul)(const float* gate, const float* up, int count, float* y);
  /// min(gate, limit)·sigmoid(slope·that)·(1 + up between -limit and limit)
  void (*clamped_silu_mul)(const float* gate, const float* up, float limit, float slope, int count, float* y);
  void (*gelu_mul)(const float* gate, const float* up, int count, float* y);
  /// y = up/(1 + exp(-gate))
  void (*sigmoid_mul)(const float* gate, const float* up, int count, float* y);
  /// x[i] = cap·tanh(x[i]·scale)
  void (*soft_cap)(float* x, float scale, float cap, int count);
  /// y = Σ w[j]·x[j], or its silu, over `kernel` rows x[j] and the rows of w, `w_stride` apart.
  void (*convolve)(const float* const* x, const float* w, size_t w_stride, int kernel, int count, float* y);
  void (*convolve_silu)(const float* const* x, const float* w, size_t w_stride, int kernel, int count, float* y);
  void (*delta_rule)(const DeltaRule& d);
  /// Rotates `head` in pairs (i, i + half) by cos[i], sin[i].
  void (*rotate)(float* head, const float* cos, const float* sin, int half);
  /// p[i] = exp(p[i]·scale - max) for i < count; returns their sum. max_scaled() gives a max.
  float (*softmax_part)(float* p, int count, float scale, float max);
  float (*max_scaled)(const float* p, int count, float scale);
  /// out[i] = x[i], elements of a cache; i8 as whole numbers.
  void (*widen)(const void* x, int count, Element element, float* out);
  /// Conversions for cached keys and values.
  void (*store)(const float* x, int count, Element element, void* out);
  /// Rounds x to int8; returns the scale, max |x| / 127.
  float (*store_i8)(const float* x, int count, int8_t* out);
  /// The same to words: max |x| / 32767.
  float (*store_words)(const float* x, int count, int16_t* out);

  void (*lora_shrink)(const LoraShrink& s);
  void (*lora_expand)(const LoraExpand& e);

  /// Derivatives, for training.
  /// Rows [first, last) of W, columns [k0, k1), as B of a Bf16Gemm over the rows, rounded to bf16, tile after tile; k0
  /// is a multiple of 16. An odd last row has a partner of zeros. Null where no instruction multiplies bf16, as are the
  /// next two.
  void (*decode_pairs)(const WeightRows& w, int first, int last, int k0, int k1, uint32_t* out);
  /// xᵀ as B of a Bf16Gemm, for x [cols, depth]: pairs follow each other along rows of x.
  void (*transpose_pairs)(const float* x, size_t stride, int cols, int depth, uint32_t* out);
  void (*gemm_bf16)(const Bf16Gemm& g);
  /// out [cols, rows] = xᵀ for x [rows, cols]
  void (*transpose)(const float* x, size_t stride, int rows, int cols, float* out, size_t out_stride);
  float (*dot)(const float* x, const float* y, int count);
  /// y[i] += a[i]·b[i]
  void (*multiply_add)(float* y, const float* a, const float* b, int count);
  void (*rms_norm_dx)(const float* dy, const float* x, const float* w, float eps, int count, float* dx);
  void (*silu_mul_dx)(const float* dy, const float* gate, const float* up, int count, float* dgate, float* dup);
  void (*gelu_mul_dx)(const float* dy, const float* gate, const float* up, int count, float* dgate, float* dup);
  void (*sigmoid_mul_dx)(const float* dy, const float* gate, const float* up, int count, float* dgate, float* dup);
  void (*clamped_silu_mul_dx)(const float* dy, const float* gate, const float* up, float limit, float slope, int count,
                              float* dgate, float* dup);
  /// d[i] *= 1 - (y[i]·scale)², where y is what soft_cap made and `scale` one over the cap.
  void (*soft_cap_dx)(float* d, const float* y, float scale, int count);
  /// Of convolve: d[i] = dy[i]·silu'(Σ w[j]·x[j]).
  void (*convolve_slope)(const float* const* x, const float* w, size_t w_stride, int kernel, int count, const float* dy,
                         float* d);
  void (*delta_step)(const DeltaStep& d);
  /// Returns gradients with respect to decay and beta.
  DeltaGates (*delta_step_dx)(const DeltaStepDx& d);
  /// One key and `count` queries: p[i] = exp(scale·s[i] - lse[i]) in place of the score s, and scale·p[i]·(dp[i] -
  /// mean[i]) in place of dp.
  void (*softmax_dx)(float* s, float* dp, const float* lse, const float* mean, float scale, int count);
  /// y[i] = x[i] masked for the elements [first, last) of a tensor; `first` is a multiple of 128. x and y point to its
  /// beginning.
  void (*dropout)(const DropoutMask& mask, const float* x, uint64_t first, uint64_t last, float* y);
};

const Kernels& scalar_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx2_vnni_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512_vnni_kernels();
const Kernels& avx512_bf16_kernels();
const Kernels& avx512_amx_kernels();
#elif defined(__aarch64__)
const Kernels& neon_kernels();
const Kernels& neon_dotprod_kernels();
const Kernels& neon_i8mm_kernels();
#endif

}  // namespace bumblebee::cpu
