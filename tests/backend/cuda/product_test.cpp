// Products of few rows on a card: against their definition within derived bounds, and equal bits in any company.
#include <gtest/gtest.h>

#include "tests/backend/cuda/needs_card.h"
#include "tests/backend/cuda/product_case.h"

namespace bumblebee::cuda {
namespace {

using Kind = StageInput::Kind;
using Epilogue = ProductStage::Epilogue;

std::string name(const ProductCase& c) {
  std::string text = std::to_string(c.bits) + " bits, groups of " + std::to_string(c.group) + ", scales " +
                     std::to_string(int(c.scale)) + ", rows " + std::to_string(c.rows) + ", in " +
                     std::to_string(c.in) + ", out";
  for (int out : c.outs) text += " " + std::to_string(out);
  return text + ", input " + std::to_string(int(c.kind)) + ", epilogue " + std::to_string(int(c.epilogue)) +
         (c.exact ? ", exact" : "");
}

using Product = NeedsCard;

void expect_close(const ProductCase& c) {
  const ProductRun run(c);
  EXPECT_LE(run.worst(run.run()), 1.0) << name(c);
}

TEST_F(Product, ShapesOfQwen3AtAllRows) {
  struct Shape {
    std::vector<int> outs;
    int in;
    Kind kind;
    Epilogue epilogue;
  };
  const Shape shapes[] = {
      {{4096, 1024, 1024}, 4096, Kind::rms_norm, Epilogue::store},
      {{4096}, 4096, Kind::plain, Epilogue::add},
      {{12288, 12288}, 4096, Kind::rms_norm, Epilogue::silu_mul},
      {{4096}, 12288, Kind::plain, Epilogue::add},
      {{2048, 1024, 1024}, 2048, Kind::rms_norm, Epilogue::store},
      {{6144, 6144}, 2048, Kind::rms_norm, Epilogue::silu_mul},
      {{2048}, 6144, Kind::plain, Epilogue::add},
      {{2048, 1024, 1024}, 1024, Kind::rms_norm, Epilogue::store},
      {{1024}, 2048, Kind::plain, Epilogue::add},
      {{3072, 3072}, 1024, Kind::rms_norm, Epilogue::silu_mul},
      {{1024}, 3072, Kind::plain, Epilogue::add},
  };
  for (const Shape& s : shapes)
    for (int rows : {1, 2, 4, 8, 16, 24, 32})
      expect_close(
          {.outs = s.outs, .in = s.in, .rows = rows, .kind = s.kind, .epilogue = s.epilogue, .most_outputs = 64});
}

TEST_F(Product, ManyInputsAreTakenFewRowsAtOnce) {
  for (const int in : {18944, 28672})
    for (const int bits : {4, 8})
      for (const int rows : {1, 4, 16, 17, 24, 32})
        expect_close({.outs = {96}, .in = in, .rows = rows, .bits = bits, .kind = Kind::plain, .most_outputs = 96});
}

TEST_F(Product, Head) {
  for (int rows : {1, 16})
    expect_close({.outs = {151936}, .in = 4096, .rows = rows, .kind = Kind::rms_norm, .most_outputs = 256});
}

TEST_F(Product, EveryFormat) {
  for (int bits : {2, 3, 4, 5, 6, 8})
    for (int group : {32, 64, 128})
      for (ScaleType scale : {ScaleType::f16, ScaleType::bf16, ScaleType::f32})
        for (int rows : {1, 7, 16, 32})
          expect_close(
              {.outs = {80, 48}, .in = 1024, .rows = rows, .bits = bits, .group = group, .scale = scale, .bias = true});
}

TEST_F(Product, OddShapes) {
  for (int bits : {2, 3, 4, 5, 6, 8})
    for (int group : {32, 64, 128})
      for (int in : {1, 3, 9, 15, 17, 37}) {
        expect_close({.outs = {1, 7, 8, 33}, .in = in * group, .rows = 3, .bits = bits, .group = group});
        expect_close(
            {.outs = {9}, .in = in * group, .rows = 12, .bits = bits, .group = group, .scale = ScaleType::f32});
      }
  expect_close({.outs = {27, 27}, .in = 576, .rows = 5, .epilogue = Epilogue::silu_mul});
  expect_close({.outs = {1}, .in = 32, .rows = 1, .group = 32});
}

TEST_F(Product, Exact) {
  for (int bits : {3, 4, 8})
    for (int group : {32, 128})
      for (int rows : {1, 2, 3, 8, 16, 17})
        expect_close({.outs = {100},
                      .in = 4096,
                      .rows = rows,
                      .bits = bits,
                      .group = group,
                      .exact = true,
                      .kind = Kind::rms_norm});
}

TEST_F(Product, ARowHasTheSameBitsInAnyCompany) {
  for (bool exact : {false, true})
    for (int in : {1024, 4096, 12288})
      for (Kind kind : {Kind::plain, Kind::rms_norm}) {
        ProductCase c = {.outs = {64, 32}, .in = in, .rows = 32, .exact = exact, .kind = kind};
        const ProductRun all(c);
        const std::vector<float> together = all.run();
        for (int rows : {1, 2, 3, 4, 5, 8, 9, 16, 17, 31}) {
          c.rows = rows;
          ProductRun some(c);
          some.share_weights(all);
          const std::vector<float>& x = all.x();
          some.set_x({x.end() - rows * in, x.end()});
          const std::vector<float> alone = some.run();
          EXPECT_EQ(0, std::memcmp(alone.data(), together.data() + (32 - rows) * 96, alone.size() * sizeof(float)))
              << name(c);
        }
      }
}

/// Up to 64 rows have the arithmetic of one, by whatever kernel.
void expect_bits_of_one_row(ProductCase c, std::initializer_list<int> all_rows) {
  c.rows = 64;
  const ProductRun all(c);
  size_t columns = 0;
  for (const int out : c.outs) columns = c.epilogue == Epilogue::silu_mul ? size_t(out) : columns + size_t(out);
  for (const int rows : all_rows) {
    c.rows = rows;
    const std::vector<float> together = ProductRun(c, all, 0).run();
    for (const int row : {0, rows / 2, rows - 1}) {
      c.rows = 1;
      const std::vector<float> alone = ProductRun(c, all, row).run();
      EXPECT_EQ(0, std::memcmp(alone.data(), together.data() + size_t(row) * columns, columns * sizeof(float)))
          << name(c) << " among " << rows << ", row " << row;
    }
  }
}

TEST_F(Product, TilesOfRowsHaveTheBitsOfOneRow) {
  for (const int in : {2048, 2560, 4096, 5120, 12288})  // some that fill no slab, and outputs that fill no tile
    for (const Kind kind : {Kind::plain, Kind::rms_norm}) {
      const ProductCase c = {.outs = {72, 64, 40}, .in = in, .bias = true, .kind = kind};
      expect_bits_of_one_row(c, {2, 3, 5, 8, 9, 16, 23, 24, 31, 32, 33, 48, 50, 64});
    }
  for (const int in : {4096, 12288})
    for (const ScaleType scale : {ScaleType::f16, ScaleType::bf16}) {
      expect_bits_of_one_row({.outs = {296}, .in = in, .scale = scale, .epilogue = Epilogue::add}, {8, 16, 32, 64});
      expect_bits_of_one_row(
          {.outs = {104, 104}, .in = in, .scale = scale, .bias = true, .epilogue = Epilogue::silu_mul},
          {8, 16, 32, 64});
    }
  // More tiles than blocks.
  expect_bits_of_one_row({.outs = {9000}, .in = 4096, .epilogue = Epilogue::add}, {7, 16, 20, 32, 40, 64});
  expect_bits_of_one_row({.outs = {4600}, .in = 12288, .epilogue = Epilogue::add}, {7, 16, 20, 32, 40, 64});
  // And so few beyond a turn of all blocks that these take sections of them.
  expect_bits_of_one_row({.outs = {4100}, .in = 12288, .epilogue = Epilogue::add}, {8, 9, 16, 24, 32, 40});
  expect_bits_of_one_row({.outs = {2000, 2100}, .in = 14336, .bias = true}, {16, 32});
}

/// Blocks round few rows by themselves; more come rounded, or not at all.
TEST_F(Product, TilesOfManyRowsWantRoundedInputs) {
  OnDevice<float> x(64 * 4096), y(64 * 64);
  OnDevice<uint8_t> codes(64 * 2048), scales(64 * 64 * 2);
  ProductStage stage;
  stage.term[0] = {
      .codes = codes.get(), .scales = scales.get(), .biases = scales.get(), .y = y.get(), .stride = 64, .out = 64};
  stage.terms = 1, stage.in = 4096;
  stage.input = {.kind = Kind::plain, .x = x.get()};
  if (!takes_row_tiles(stage, 8)) GTEST_SKIP() << "no tiles of few rows on this card";
  for (const int rows : {8, 9, 16, 64}) {
    stage.rows = rows;
    EXPECT_EQ(rounds_row_tiles(stage, rows), rows <= 8) << rows;
    EXPECT_EQ(launch_stage(stage, nullptr), rows <= 8 ? cudaSuccess : cudaErrorInvalidValue) << rows;
  }
  require(cudaDeviceSynchronize());
}

TEST_F(Product, WhatIsNotFiniteReachesTheOutput) {
  for (float bad : {float(NAN), float(INFINITY)}) {
    ProductRun run({.outs = {64}, .in = 256, .rows = 2});
    std::vector<float> x = run.x();
    x[256 + 100] = bad;
    run.set_x(x);
    const std::vector<float> y = run.run();
    for (size_t i = 0; i < 64; ++i) {
      EXPECT_TRUE(std::isfinite(y[i]));
      EXPECT_FALSE(std::isfinite(y[64 + i]));
    }
  }
}

}  // namespace
}  // namespace bumblebee::cuda
