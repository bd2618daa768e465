// The tile instructions of AMX as text: the compiler's own do not say that they read memory, and take registers as
// macros only. Names are the roles that int8_panel_amx.h gives the eight tiles. Included inside an instruction set's
// own namespace.
#pragma once

/// Sums of int32 (four tiles), bytes of x (two) and codes (two).
inline constexpr int kSumTile = 0, kXTile = 4, kCodeTile = 6;

/// Palette 1: rows and bytes a row of each tile.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileShapes) == 64);

/// Shapes belong to the thread. All tiles become zero.
inline void tile_shapes(const TileShapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes) : "memory"); }
/// A thread that sleeps with tiles in use costs its processor deep sleep, and every switch 8 KiB.
inline void tile_release() { asm volatile("tilerelease"); }

template <int TILE>
BB_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(TILE));
}
template <int TILE>
BB_INLINE void tile_load(const void* p, size_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(TILE) : "memory");
}
template <int TILE>
BB_INLINE void tile_store(void* p, size_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(TILE) : "memory");
}
/// SUM [16, rows of x] += CODES [16, steps of 4 unsigned bytes] · X [steps][rows of x][4 signed bytes]
template <int SUM, int CODES, int X>
BB_INLINE void tile_dot_codes() {
  asm volatile("tdpbusd %%tmm%c0, %%tmm%c1, %%tmm%c2" : : "i"(X), "i"(CODES), "i"(SUM));
}
/// SUM [rows, 16] += X [rows, steps of 4 signed bytes] · CODES [steps][16][4 unsigned bytes]
template <int SUM, int X, int CODES>
BB_INLINE void tile_dot() {
  asm volatile("tdpbsud %%tmm%c0, %%tmm%c1, %%tmm%c2" : : "i"(CODES), "i"(X), "i"(SUM));
}
