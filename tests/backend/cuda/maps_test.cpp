// The maps of the products for a card, emulated on the host: what every lane of a warp loads, and that an MMA over it
// is the sum that is wanted.
#include "backend/cuda/kernels/maps.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <random>
#include <set>
#include <span>
#include <vector>

#include "backend/cuda/kernels/digits.h"
#include "quant/affine.h"

namespace bumblebee::cuda {
namespace {

constexpr std::array kWidths = {2, 3, 4, 5, 6, 8};

Octet unpack(int bits, uint32_t low, uint32_t high) {
  switch (bits) {
    case 2: return unpack_octet<2>(low, high);
    case 3: return unpack_octet<3>(low, high);
    case 4: return unpack_octet<4>(low, high);
    case 5: return unpack_octet<5>(low, high);
    case 6: return unpack_octet<6>(low, high);
    default: return unpack_octet<8>(low, high);
  }
}

std::vector<uint8_t> random_codes(int bits, size_t count) {
  std::mt19937 random(unsigned(bits) * 7u + 1u);
  std::vector<uint8_t> codes(count);
  for (uint8_t& code : codes) code = uint8_t(random() & ((1u << bits) - 1u));
  return codes;
}

uint32_t word_at(std::span<const std::byte> bytes, size_t at) {
  uint32_t word = 0;
  std::memcpy(&word, bytes.data() + at, 4);
  return word;
}

/// A slab of one stage in shared memory as copies put it there: the halves of the tile, one after the other.
std::vector<std::byte> stage_of(int bits, const std::vector<uint8_t>& codes) {
  const size_t half = size_t(columns_of_slab(bits, 1) * kHalfColumn);
  std::vector<std::byte> packed(codes.size() * size_t(bits) / 8), stage(2 * half);
  pack_codes(codes, bits, packed);
  for (uint32_t row = 0; row < kTileRows; ++row)
    for (uint32_t byte = 0; byte < uint32_t(32 * bits); ++byte)
      stage[row / 8 * half + slab_offset(row % 8, byte)] = packed[row * size_t(32 * bits) + byte];
  return stage;
}

/// Registers of A that lane `lane` holds of block `block`: rows g and g + 8, even and odd codes.
std::array<uint32_t, 4> fragment(int bits, const std::vector<std::byte>& stage, int block, int lane) {
  const size_t half = size_t(columns_of_slab(bits, 1) * kHalfColumn);
  const uint32_t byte = uint32_t(lane % 4 * bits), at = uint32_t(block * 4 * bits) + byte / 4 * 4;
  std::array<uint32_t, 4> a{};
  for (size_t row = 0; row < 2; ++row) {
    const auto word = [&](uint32_t place) {
      return word_at(stage, row * half + slab_offset(uint32_t(lane / 4), place));
    };
    uint32_t low = word(at), high = 0;  // four bits: what ldmatrix deals out, word t of 16 bytes
    if (bits != 4) {
      const uint32_t next = bits == 2 ? 0 : word(at + 4);
      low = funnel(low, next, int(byte % 4 * 8));
      high = next >> (byte % 4 * 8);
    }
    const Octet octet = unpack(bits, low, high);
    a[row] = octet.even, a[2 + row] = octet.odd;
  }
  return a;
}

int byte_of(uint32_t word, int i) { return int(word >> (8 * i) & 0xff); }

TEST(Unpack, OctetsAreEvenAndOddCodes) {
  for (int bits : kWidths) {
    const std::vector<uint8_t> codes = random_codes(bits, 32 * 64);
    std::vector<std::byte> packed(codes.size() * size_t(bits) / 8);
    pack_codes(codes, bits, packed);
    packed.resize(packed.size() + 8, std::byte(0xa5));  // what lies above an octet may be anything
    for (size_t octet = 0; octet < codes.size() / 8; ++octet) {
      const size_t at = octet * size_t(bits);
      const Octet found = unpack(bits, word_at(packed, at), word_at(packed, at + 4));
      for (size_t i = 0; i < 4; ++i) {
        ASSERT_EQ(byte_of(found.even, int(i)), codes[octet * 8 + 2 * i]) << bits << " bits";
        ASSERT_EQ(byte_of(found.odd, int(i)), codes[octet * 8 + 2 * i + 1]) << bits << " bits";
      }
    }
  }
}

TEST(Maps, AnMmaOverFragmentsIsTheSum) {
  constexpr int kColumns = 8;
  std::mt19937 random(3);
  std::vector<int8_t> x(kStageInputs * kColumns);  // [input][column]
  for (int8_t& v : x) v = int8_t(int(random() % 256) - 128);
  std::vector<int8_t> digits(x.size());
  for (int input = 0; input < kStageInputs; ++input)
    for (int column = 0; column < kColumns; ++column) {
      const int code = input % 8;  // of its octet
      const size_t at = digit_offset(input / 32, kColumns, column, input % 32 / 8) + size_t(code % 2 * 4 + code / 2);
      digits[at] = x[size_t(input * kColumns + column)];
    }
  for (int bits : kWidths) {
    const std::vector<uint8_t> codes = random_codes(bits, kTileRows * kStageInputs);
    const std::vector<std::byte> stage = stage_of(bits, codes);
    for (int block = 0; block < kStageInputs / 32; ++block) {
      int a[16][32], b[32][8];
      for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        const auto f = fragment(bits, stage, block, lane);
        for (int j = 0; j < 4; ++j) {
          a[g][4 * t + j] = byte_of(f[0], j), a[g + 8][4 * t + j] = byte_of(f[1], j);
          a[g][16 + 4 * t + j] = byte_of(f[2], j), a[g + 8][16 + 4 * t + j] = byte_of(f[3], j);
          const size_t at = digit_offset(block, kColumns, g, t);
          b[4 * t + j][g] = digits[at + size_t(j)], b[16 + 4 * t + j][g] = digits[at + 4 + size_t(j)];
        }
      }
      for (int row = 0; row < 16; ++row)
        for (int slot = 0; slot < 32; ++slot)
          ASSERT_EQ(a[row][slot], codes[size_t(row * kStageInputs + block * 32 + input_of_slot(slot))]);
      for (int row = 0; row < 16; ++row)
        for (int column = 0; column < kColumns; ++column) {
          int found = 0, wanted = 0;
          for (int k = 0; k < 32; ++k) {
            found += a[row][k] * b[k][column];
            const int input = block * 32 + k;
            wanted += codes[size_t(row * kStageInputs + input)] * x[size_t(input * kColumns + column)];
          }
          ASSERT_EQ(found, wanted) << bits << " bits";
        }
    }
  }
}

TEST(Maps, LoadsOfAWarpFallToDifferentBanks) {
  for (uint32_t piece = 0; piece < 16; ++piece) {  // ldmatrix: eight rows of 16 bytes at a time
    std::set<uint32_t> banks;
    for (uint32_t row = 0; row < 8; ++row) banks.insert(slab_offset(row, piece * 16) % 128);
    EXPECT_EQ(banks.size(), 8u);
  }
  std::multiset<uint32_t> pairs;  // 8 bits: half a warp loads 8 bytes each, at most two of them from the same banks
  for (uint32_t lane = 0; lane < 16; ++lane) pairs.insert(slab_offset(lane / 4, lane % 4 * 8) % 128);
  for (const uint32_t pair : pairs) EXPECT_LE(pairs.count(pair), 2u);
}

TEST(Maps, SlabsAndSectionsCoverTheInputs) {
  for (int in = 32; in <= 40000; in += 32) {
    const int classes = classes_of(in), slabs = slabs_of(in);
    EXPECT_TRUE(classes == 1 || classes == 2 || classes == 4 || classes == 8);
    EXPECT_LE(classes, stages_of(in)) << "every class has a stage";
    EXPECT_GE(slabs * classes, stages_of(in));
    EXPECT_LT((slabs - 1) * classes, stages_of(in));
    EXPECT_EQ(sections_of(in), (slabs + 1) / 2);
    EXPECT_TRUE(classes == 8 || sections_of(in) == 1) << "several tiles share a slab";
  }
}

TEST(Digits, AreWithinInt8AndGiveTheNumberBack) {
  for (int v = -16256; v <= 16256; ++v) {
    const Digits d = split_digits(v);
    ASSERT_EQ(d.high * 128 + d.low, v);
    ASSERT_LE(std::abs(d.high), 127);
    ASSERT_LE(std::abs(d.low), 64);
  }
  const int most = int(kExactSteps);
  for (int v = -most; v <= most; v += 997) {
    const Digits pairs = split_pairs(v);
    ASSERT_EQ(pairs.high * 16384 + pairs.low, v);
    for (int two : {pairs.high, pairs.low}) {
      const Digits d = split_digits(two);
      ASSERT_LE(std::abs(d.high), 127);
      ASSERT_LE(std::abs(d.low), 64);
    }
  }
}

TEST(Digits, PackedAreTheDigits) {
  for (int v = -16256; v + 3 <= 16256; ++v) {
    uint32_t biased[4];
    for (int i = 0; i < 4; ++i) biased[i] = kStepsBias + uint32_t(v + i);
    const uint32_t high = high_digits(biased[0], biased[1], biased[2], biased[3]);
    const uint32_t low = low_digits(biased[0], biased[1], biased[2], biased[3]);
    for (int i = 0; i < 4; ++i) {
      const Digits d = split_digits(v + i);
      ASSERT_EQ(int8_t(byte_of(high, i)), d.high) << v;
      ASSERT_EQ(int8_t(byte_of(low, i)), d.low) << v;
    }
  }
}

TEST(Digits, AStepIsAtMostHalfOff) {
  std::mt19937 random(5);
  std::uniform_real_distribution<float> draw(-1.0f, 1.0f);
  for (int i = 0; i < 10000; ++i) {
    const float largest = std::exp2(draw(random) * 40.0f), x = draw(random) * largest;
    const double steps = double(x) / (double(largest) / double(kFastSteps));
    EXPECT_LE(std::abs(int(biased_steps(x, kFastSteps / largest) - kStepsBias) - steps), 0.504);
    EXPECT_LE(std::abs(to_steps(x, kFastSteps / largest) - steps), 0.504);
  }
}

}  // namespace
}  // namespace bumblebee::cuda
