// Where no tiles of a processor multiply, a few rows of x lie as panels want them.
#pragma once

inline constexpr int kTiledRows = 0;
inline constexpr decltype(Kernels::takes_tiles) kTakesTiles = nullptr;
inline constexpr decltype(Kernels::tile_bytes) kTileBytes = nullptr;
inline constexpr decltype(Kernels::tile_rows) kTileRows = nullptr;
inline bool tiled_matmul(const WeightRows&, int, int, const QuantRows&, int, float*, size_t, void*) { return false; }
