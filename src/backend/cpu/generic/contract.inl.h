// What an instruction set must supply, checked here. Sixteen lanes everywhere: that, and one order of every sum, is why
// all sets give the same bits. Included after the set's headers.
#pragma once

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"  // of vectors, on template arguments
template <class T, class U>
concept Is = __is_same(T, U);

// BB_ISA_SIMD: sixteen f32.
static_assert(
    requires(F32x16 a, const float* p, float* q, const void* from, void* to, int n) {
      { zero() } -> Is<F32x16>;
      { set1(1.0f) } -> Is<F32x16>;
      { load(p) } -> Is<F32x16>;
      { load_n(p, n) } -> Is<F32x16>;  // the first n < 16, then zeros; no more is read
      { store(q, a) } -> Is<void>;
      { store_n(q, a, n) } -> Is<void>;
      { add(a, a) } -> Is<F32x16>;
      { mul(a, a) } -> Is<F32x16>;
      { div(a, a) } -> Is<F32x16>;
      { fma(a, a, a) } -> Is<F32x16>;   // a·b + c
      { fnma(a, a, a) } -> Is<F32x16>;  // c - a·b
      { max(a, a) } -> Is<F32x16>;
      { min(a, a) } -> Is<F32x16>;
      { abs(a) } -> Is<F32x16>;
      { round(a) } -> Is<F32x16>;      // to whole numbers, nearest even
      { scale2(a, a) } -> Is<F32x16>;  // a·2^n
      { reduce_add(a) } -> Is<float>;  // one tree: halves are added until one lane is left
      { reduce_max(a) } -> Is<float>;
      { load_bf16(from) } -> Is<F32x16>;
      { load_f16(from) } -> Is<F32x16>;
      { load_i8(from) } -> Is<F32x16>;
      { load_e8m0(from) } -> Is<F32x16>;
      { load_e4m3(from) } -> Is<F32x16>;
      { store_bf16(to, a) } -> Is<void>;
      { store_f16(to, a) } -> Is<void>;
    }, "BB_ISA_SIMD");

/// Sixteen weights from 2·BITS bytes of codes.
template <int CODE>
concept Decodes = requires(const Decoder<CODE>& decode, const uint8_t* codes) {
                    Decoder<CODE>(1.0f, 0.0f);  // scale, bias (which float codes have not)
                    { decode(codes) } -> Is<F32x16>;
                  };
static_assert(Decodes<2> && Decodes<3> && Decodes<4> && Decodes<5> && Decodes<6> && Decodes<8> && Decodes<kE2m1> &&
                  Decodes<kE4m3>,
              "Decoder of BB_ISA_SIMD");

// Sizes of tiles, for the registers there are: rows of x that exact products decode codes for at once; rows and columns
// of dot_block(); rows of small_gemm(), and its sums of sixteen.
static_assert(kMatvecTile == 1 || kMatvecTile == kMatvecRows);
static_assert(kTileM > 0 && kTileN > 0 && kGemmRows > 0 && kGemmSums >= kGemmRows);

// BB_ISA_INT: sixteen int32, or 64 bytes.
static_assert(
    requires(I32x16 a, I32x16 (&square)[16], F32x16 f, const void* from, void* to, int n, const int8_t* bytes,
             int8_t* to_bytes, int16_t* to_words) {
      { int_zero() } -> Is<I32x16>;
      { int_set1(n) } -> Is<I32x16>;
      { load_int(from) } -> Is<I32x16>;
      { load_int_n(from, n) } -> Is<I32x16>;  // the first n bytes, a multiple of 16
      { store_int(to, a) } -> Is<void>;
      { add(a, a) } -> Is<I32x16>;
      { times16(a) } -> Is<I32x16>;
      { times128(a) } -> Is<I32x16>;
      { bit_and(a, a) } -> Is<I32x16>;
      { bit_or(a, a) } -> Is<I32x16>;
      { zero_where_equal(f, f) } -> Is<F32x16>;
      { to_float(a) } -> Is<F32x16>;  // converts; the next two reinterpret
      { as_int(f) } -> Is<I32x16>;
      { as_float(a) } -> Is<F32x16>;
      { dup_lanes(f) } -> Is<F32x16>;  // lanes 0 0 1 1 ... 7 7
      { low_nibbles(a) } -> Is<I32x16>;
      { high_nibbles(a) } -> Is<I32x16>;
      { lookup(kE2m1Bytes, a) } -> Is<I32x16>;  // of bytes below 16
      { broadcast4(bytes) } -> Is<I32x16>;      // four bytes to each lane
      { store_int8(to_bytes, f) } -> Is<void>;  // sixteen, nearest even, saturated
      { store_low_words(to_words, a) } -> Is<void>;
      { widen_words(bytes) } -> Is<I32x16>;  // thirty-two bytes
      { dot_words(a, a, a) } -> Is<I32x16>;  // with BB_ISA_DOT: the first and products of pairs of words
      { prefetch(from) } -> Is<void>;
      { prefetch_far(from) } -> Is<void>;  // into the second level
      { transpose(square) } -> Is<void>;
    },
    "BB_ISA_INT");

/// Sixteen codes as bytes, from 2·BITS bytes; and, where kUnpacks32, thirty-two of a width that does not lie ready.
template <int BITS>
concept Unpacks = requires(uint8_t* out, const uint8_t* codes) {
                    { store_codes<BITS>(out, codes) } -> Is<void>;
                  } && (!kUnpacks32 || BITS == 4 || BITS == 8 || requires(uint8_t * out, const uint8_t* codes) {
                                                                   { store_codes32<BITS>(out, codes) } -> Is<void>;
                                                                 });
static_assert(Unpacks<2> && Unpacks<3> && Unpacks<5> && Unpacks<6>, "BB_ISA_INT");
static_assert(
    requires(const uint8_t* rows, size_t stride, void (*sink)(int, I32x16)) {
      { load_square(rows, stride, sink) } -> Is<void>;  // what transpose() makes of sixteen loads, one after the other
    }, "BB_ISA_INT");
static_assert(kDirectRows > 0 && kIntRows >= 4 && kIntRows <= 8, "BB_ISA_INT: tiles of int8 products");

// BB_ISA_DOT: sums of four products of an unsigned and a signed byte per lane, for codes of up to kBits bits. A sum
// takes kSteps steps before total() must be called; WideDot, made of it, takes all codes.
static_assert(
    requires(Dot::Sum s, I32x16 a) {
      { Dot::zero() } -> Is<Dot::Sum>;
      { Dot::step(s, a, a) } -> Is<Dot::Sum>;
      { Dot::total(s) } -> Is<I32x16>;
    } && Dot::kBits >= 4 && Dot::kSteps >= 8 && kNarrowBits >= Dot::kBits, "BB_ISA_DOT");

// BB_ISA_ROW_DOT: the sums of a stripe of one weight row, block i in lane i.
template <class Codes, int BLOCK>
concept SumsBlocks = requires(const uint8_t* codes, const RowBytes& x, int inputs, I32x16 (&one)[1], I32x16 (&two)[2]) {
                       { block_sums<Codes, BLOCK, 1>(codes, x, inputs, one) } -> Is<void>;
                       { block_sums<Codes, BLOCK, 2>(codes, x, inputs, two) } -> Is<void>;
                       { prefetch_row(codes) } -> Is<void>;  // what is read later, of codes kRowAhead bytes ahead
                     };
static_assert(SumsBlocks<NibbleCodes, 32> && SumsBlocks<E2m1Codes, 32> && SumsBlocks<ByteCodes<true>, 64> &&
                  kRowAhead >= 0,
              "BB_ISA_ROW_DOT");

// BB_ISA_ROW_STREAMS: how many weight rows one row of x reads in turns, and how far ahead of each it asks.
static_assert(kRowStreams > 0 && 16 % kRowStreams == 0 && kStreamAhead % 64 == 0, "BB_ISA_ROW_STREAMS");

// BB_ISA_OUTLIERS: where few rows keep the high bytes of outliers, as BB_ISA_ROW_DOT reads them.
static_assert(
    requires(int8_t * row, const int8_t (&high)[kOutliers], const int (&positions)[kOutliers], QuantLayout layout) {
      { clear_high(1, layout, row) } -> Is<void>;  // before the first group of a part of a row
      { store_high(high, positions, 0, layout, row) } -> Is<void>;
    } && kHighStripe<32> <= size_t(32) * kLanes && kHighStripe<64> <= size_t(64) * kLanes, "BB_ISA_OUTLIERS");
#pragma GCC diagnostic pop
