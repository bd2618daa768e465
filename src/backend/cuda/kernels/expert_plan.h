// How rows are dealt to experts on the card: assignments lie sorted by expert, and are cut into tiles of one expert
// each. How many there are of these is known there only; here is what they are at most, and where they lie. Plain
// functions of numbers, tested without a card.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace bumblebee::cuda {

/// Assignments [first, first + rows) of one expert.
struct alignas(16) ExpertTile {
  int32_t expert = 0, first = 0, rows = 0, spare = 0;
};

struct ExpertShape {
  int rows = 0, top_k = 0, experts = 0;
  int assignments() const { return rows * top_k; }
};

/// More would not fit in shared memory where they are chosen.
inline constexpr int kMostExperts = 4096;
/// Rows of a tile where there are many.
inline constexpr int kWideTileRows = 64;
/// Where there are few: one, while hardly two rows meet at an expert.
inline constexpr int kFewTileRows = 4;
constexpr int few_tile_rows(const ExpertShape& s) {
  return s.rows <= 1 || 2 * s.rows * s.top_k <= s.experts ? 1 : kFewTileRows;
}
/// However rows are dealt: every expert that has some may end in a tile that is not full.
constexpr int most_tiles(const ExpertShape& s, int tile_rows) {
  const int assignments = s.rows * s.top_k, chosen = std::min(assignments, s.experts);
  return chosen + (assignments - chosen) / tile_rows;
}

/// Bytes from the start of a routing's `order`, behind which the rest lies.
struct ExpertPlaces {
  size_t row_of = 0, counts = 0, few = 0, wide = 0, end = 0;
};
constexpr ExpertPlaces expert_places(const ExpertShape& s) {
  const auto aligned = [](size_t bytes) { return (bytes + 15) / 16 * 16; };
  const size_t list = aligned(size_t(s.rows) * size_t(s.top_k) * sizeof(int32_t));
  ExpertPlaces at;
  at.row_of = list;
  at.counts = at.row_of + list;
  at.few = at.counts + 16;
  at.wide = at.few + size_t(most_tiles(s, few_tile_rows(s))) * sizeof(ExpertTile);
  at.end = at.wide + size_t(most_tiles(s, kWideTileRows)) * sizeof(ExpertTile);
  return at;
}

}  // namespace bumblebee::cuda
