// Many rows of int8 activations with AMX: sixteen or thirty-two rows of x meet a panel of weight rows a block at a
// time. Sums of a block leave the tiles through memory and are scaled there by vectors; the tiles of the next block are
// multiplied meanwhile. Blocks and lanes go in the order of generic/int8_panel.inl.h, so the bits are the same. Drawn
// in docs/internals/kernels.md. Included after int8_direct.inl.h.
#pragma once

#include "backend/cpu/isa/int8_drain_amx.h"
#include "backend/cpu/isa/int8_stream_amx.h"

/// Panels in scratch: sums of the lanes that are done, of each of kTilePanels, and of each lane at work; codes [lane of
/// a chunk][chunk][tile][step][16 rows][4 bytes], for folded codes each tile twice: as they are, and 16 times that.
struct TilePanel {
  float *sums, *lane;  // of the first panel
  uint8_t* codes;
  BlockSums* blocks;
  float *scale, *bias;
  float* factors;   // [units][blocks][rows of a unit][2]: of x, as sums leaving tiles meet them
  uint8_t* shifts;  // [units][blocks]: the largest of each
  size_t scales;    // floats of a panel's scales
  static constexpr size_t kLaneSums = size_t(kInt8Rows) * kInt8Cols;
  TilePanel(const WeightRows& w, void* scratch) {
    scales = size_t((w.in / w.group + 15) / 16 * 16) * kInt8Cols;
    sums = static_cast<float*>(scratch);
    lane = sums + kTilePanels * kLaneSums;
    codes = reinterpret_cast<uint8_t*>(lane + kChunkLanes * kLaneSums);
    blocks = reinterpret_cast<BlockSums*>(codes + size_t(kInt8Cols) * kInt8Depth);
    scale = reinterpret_cast<float*>(blocks + kBlockSums);
    bias = scale + kTilePanels * scales;
    factors = bias + kTilePanels * scales;
    shifts = reinterpret_cast<uint8_t*>(factors + size_t(2) * kInt8Rows * size_t(padded_blocks(w.in, quant_layout(w))));
  }
  /// Its sums and scales are those of panel i.
  TilePanel of(int i) const {
    TilePanel p = *this;
    p.sums += size_t(i) * kLaneSums;
    p.scale += size_t(i) * scales;
    p.bias += size_t(i) * scales;
    return p;
  }
};

/// Inputs of a row above which fewer rows of x are taken together.
inline constexpr int kLongRow = 6144;

/// So few rows of x fit a tile together with their high bytes, which follow them in memory.
inline constexpr int kPackedRows = 8;

/// Where a weight's codes go in a panel.
struct TileCodes {
  int block;          // inputs
  bool fold;          // 16 times the codes beside them
  size_t tile, slot;  // bytes of a tile, of the tiles of a block
  TileCodes(const WeightRows& w, int tiles, int rows)
      : block(quant_layout(w).block), fold(w.bits == 4 && !w.floats && rows > kPackedRows) {
    tile = size_t(16) * size_t(block) * (fold ? 2 : 1);
    slot = tile * size_t(tiles);
  }
};

/// Decodes the chunk of inputs from k on, of sixteen rows, to the blocks `next` bytes apart.
[[gnu::noinline]] inline void decode_tiles(const TileRows& rows, const WeightRows& w, const TileCodes& at, int k,
                                           uint8_t* out, size_t next) {
  I32x16 t[16];
  load_chunk(rows, w.bits, k, w.in - k, t);
  const size_t folded = size_t(16) * size_t(at.block), half = folded / 2;
  if (w.floats) {
    unroll<4>(BB_BODY(q) {
      unroll<4>(BB_BODY(i) {
        store_int(out + q * next + 64 * i, E2m1Codes::low(t[4 * q + i]));
        store_int(out + q * next + half + 64 * i, E2m1Codes::high(t[4 * q + i]));
      });
    });
  } else if (w.bits == 4) {
    const I32x16 low_half = _mm512_set1_epi8(15), high_half = _mm512_set1_epi8(-16);
    const auto block = [&](const I32x16* codes, int count, uint8_t* to) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int i = 0; i < count; ++i) {
        store_int(to + 64 * i, bit_and(codes[i], low_half));
        store_int(to + half + 64 * i, bit_and(_mm512_srli_epi16(codes[i], 4), low_half));
      }
      if (!at.fold) return;
#pragma GCC unroll 8
      for (int i = 0; i < count; ++i) {
        store_int(to + folded + 64 * i, bit_and(_mm512_slli_epi16(codes[i], 4), high_half));
        store_int(to + folded + half + 64 * i, bit_and(codes[i], high_half));
      }
    };
    if (at.block == 64) {
      block(t, 8, out);
      block(t + 8, 8, out + next);
    } else {
      for (int q = 0; q < 4; ++q) block(t + 4 * q, 4, out + size_t(q) * next);
    }
  } else {
    uint8_t* const second = at.block == 32 ? out + next : out + 512;
    unroll<8>(BB_BODY(i) { store_int(out + 64 * i, t[i]); });
    unroll<8>(BB_BODY(i) { store_int(second + 64 * i, t[8 + i]); });
  }
}

/// Rows of x in units of equal size, which are multiplied together: one tile of rows with up to four of weights, or two
/// with two. One size, so that tiles keep their shapes and steps follow each other; the last unit may begin with rows
/// of the one before.
struct RowUnits {
  int count, rows, all;
  explicit RowUnits(int all_rows) : count((all_rows + 31) / 32), rows((all_rows + count - 1) / count), all(all_rows) {}
  int first(int unit) const { return (unit + 1) * rows <= all ? unit * rows : all - rows; }
  TileShapes shapes(int block) const {
    const int one = rows <= kPackedRows ? 2 * rows : rows < 16 ? rows : 16, two = rows > 16 ? rows - 16 : one;
    TileShapes s;
    for (int i = 0; i < 8; ++i) s.bytes[i] = 64;
    for (int i = 0; i < 4; ++i) s.rows[kSumTile + i] = uint8_t(i < 2 ? one : two);
    for (int i = 0; i < 2; ++i) {
      s.rows[kXTile + i] = uint8_t(i == 0 ? one : two);
      s.bytes[kXTile + i] = uint16_t(block);
      s.rows[kCodeTile + i] = uint8_t(block / 4);
    }
    return s;
  }
};

/// The tiles of one block: x and codes, and how far apart their tiles are.
struct BlockTiles {
  const int8_t *low, *high;
  size_t x_stride;
  const uint8_t* codes;
  size_t tile, folded;  // bytes from tile to tile of codes, and to 16 times these
};

/// Writes out what a tile of sums holds of an earlier block, and clears it. Between a product and its store lie those
/// of other tiles, or the processor would wait for it.
template <int I>
BB_INLINE void begin_sum(int32_t* earlier) {
  tile_store<kSumTile + I>(earlier + 256 * I, 64);
  tile_zero<kSumTile + I>();
}

/// Half of the tiles of a block, HALF 0 or 1: rows of x times codes. NEW sums begin, and earlier ones go to `earlier`.
template <int ROW_TILES, int COLS, int HALF, bool NEW>
BB_INLINE void multiply_half(const int8_t* x, size_t x_stride, const uint8_t* codes, size_t tile, int32_t* earlier) {
  if constexpr (ROW_TILES == 2) {
    static_assert(COLS == 2);
    tile_load<kXTile + HALF>(x + size_t(HALF) * 16 * x_stride, x_stride);
    unroll<2>(BB_BODY(c) {
      if constexpr (NEW) begin_sum<2 * HALF + c>(earlier);
      if constexpr (HALF == 0) tile_load<kCodeTile + c>(codes + size_t(c) * tile, 64);
      tile_dot<kSumTile + 2 * HALF + c, kXTile + HALF, kCodeTile + c>();
    });
  } else if constexpr (2 * HALF < COLS) {
    constexpr int kX = kXTile + (NEW ? 0 : 1);
    if constexpr (HALF == 0) tile_load<kX>(x, x_stride);
    unroll<2>(BB_BODY(c) {
      if constexpr (NEW) begin_sum<2 * HALF + c>(earlier);
      tile_load<kCodeTile + c>(codes + size_t(2 * HALF + c) * tile, 64);
      tile_dot<kSumTile + 2 * HALF + c, kX, kCodeTile + c>();
    });
  }
}

/// Steps in flight: between the products of one, sums of the one before are scaled, a few rows at a time.
template <int ROW_TILES, int COLS, bool PACKED>
struct TilePipeline {
  BlockSums* const slots;
  BlockSums* const spare;  // where sums go that nobody wants
  PanelPrefetch& prefetch;
  int32_t* pending;  // where those in tiles go
  int slot = 0, slot_apart = 0, at = 0;
  int row = 0, pair = 0;  // of the step before: what is scaled next
  const int rows;
  bool busy = false;
  Drain steps[2];

  TilePipeline(BlockSums* all, PanelPrefetch& asks, int rows_together)
      : slots(all), spare(all + kBlockSums - 1), prefetch(asks), pending(spare->low), rows(rows_together) {}
  /// How often a block asks for lines that come next: with few rows, between its halves too, or memory would stand
  /// still while tiles are multiplied.
  static constexpr int kAsks = ROW_TILES == 2 ? 0 : PACKED ? 2 : 4;
  /// Where the next step says how its sums are scaled; places of sums are filled in here.
  Drain& next() { return steps[at]; }

  /// Scales the next rows of the step before, of so many pairs of tiles of weight rows.
  BB_INLINE void drain(int pieces, int pairs = ROW_TILES == 2 ? 1 : COLS / 2) {
    if (!busy) return;
    const Drain& before = steps[1 - at];
    for (; pieces > 0 && pair < pairs; --pieces) {
      row += drain_some(before, 2 * pair, row, rows - row);
      if (row == rows) row = 0, ++pair;
    }
  }

  /// Both steps in flight are of the kind that most are.
  bool usual() const {
    const Drain &now = steps[at], &before = steps[1 - at];
    return ROW_TILES == 2 && busy && rows == 32 && now.blocks == 2 && before.blocks == 2 && !now.split && !before.split;
  }
  /// As step(), for those; ALONE says of the step before whether each block is a lane.
  template <bool ALONE>
  void usual_step(const BlockTiles (&blocks)[2]) {
    Drain& d = steps[at];
    const Drain& before = steps[1 - at];
    unroll<2>(BB_BODY(b) {
      BlockSums* const to = take_slot(false);
      d.low[b] = to->low;
      const BlockTiles t = blocks[b];
      multiply_half<ROW_TILES, COLS, 0, true>(t.low, t.x_stride, t.codes, t.tile, pending);
      drain_rows<4, 2, ALONE, false>(before, 0, 16 * b);
      multiply_half<ROW_TILES, COLS, 1, true>(t.low, t.x_stride, t.codes, t.tile, pending);
      drain_rows<4, 2, ALONE, false>(before, 0, 16 * b + 4);
      multiply_half<ROW_TILES, COLS, 0, false>(t.high, t.x_stride, t.codes + t.folded, t.tile, nullptr);
      drain_rows<4, 2, ALONE, false>(before, 0, 16 * b + 8);
      multiply_half<ROW_TILES, COLS, 1, false>(t.high, t.x_stride, t.codes + t.folded, t.tile, nullptr);
      drain_rows<4, 2, ALONE, false>(before, 0, 16 * b + 12);
      pending = to->low;
    });
    at = 1 - at;
  }

  void step(const BlockTiles (&blocks)[2]) {
    if constexpr (ROW_TILES == 2) {
      if (usual()) return steps[1 - at].alone ? usual_step<true>(blocks) : usual_step<false>(blocks);
    }
    Drain& d = steps[at];
    const int pieces = (d.blocks == 1 ? 2 : 1) * (PACKED ? 2 : 1);
    for (int b = 0; b < d.blocks; ++b) {
      BlockSums* const to = take_slot(d.split && !PACKED);
      d.low[b] = to->low;
      d.high[b] = to->high;
      const BlockTiles& t = blocks[b];
      multiply_half<ROW_TILES, COLS, 0, true>(t.low, t.x_stride, t.codes, t.tile, pending);
      drain(pieces, 1);  // the other tiles of the step before have not been written out when b is 0
      if constexpr (kAsks > 0) prefetch.step();
      multiply_half<ROW_TILES, COLS, 1, true>(t.low, t.x_stride, t.codes, t.tile, pending);
      drain(pieces);
      if constexpr (kAsks > 2) prefetch.step();
      if constexpr (PACKED) {
        d.high[b] = to->low + 16 * rows;
        pending = to->low;
      } else if (d.split) {
        multiply_half<ROW_TILES, COLS, 0, true>(t.high, t.x_stride, t.codes, t.tile, to->low);
        drain(pieces);
        if constexpr (kAsks > 2) prefetch.step();
        multiply_half<ROW_TILES, COLS, 1, true>(t.high, t.x_stride, t.codes, t.tile, to->low);
        pending = to->high;
      } else {
        multiply_half<ROW_TILES, COLS, 0, false>(t.high, t.x_stride, t.codes + t.folded, t.tile, nullptr);
        drain(pieces);
        if constexpr (kAsks > 2) prefetch.step();
        multiply_half<ROW_TILES, COLS, 1, false>(t.high, t.x_stride, t.codes + t.folded, t.tile, nullptr);
        pending = to->low;
      }
      drain(pieces);
      if constexpr (kAsks > 0) prefetch.step();
    }
    begin_drain();
  }

  void finish() {
    unroll<(ROW_TILES == 2 ? 4 : COLS)>(BB_BODY(i) { begin_sum<i>(pending); });
    pending = spare->low;
    drain(1 << 20);
    busy = false;
  }

 private:
  /// Sums leave a tile a block later, by when those of two steps before are scaled; not those that leave at once. Few
  /// places in turn, so that they stay in the first level.
  BlockSums* take_slot(bool apart) {
    if (apart) return slots + kJoinedSums + (slot_apart = (slot_apart + 1) % kApartSums);
    return slots + (slot = (slot + 1) % kJoinedSums);
  }
  void begin_drain() {
    drain(1 << 20);  // what is left
    at = 1 - at;
    row = pair = 0;
    busy = true;
  }
};

/// Some chunks of the lanes of one chunk, decoded, and what they meet.
struct TileWork {
  const WeightRows& w;
  const QuantRows& x;
  size_t high;  // from low bytes to high ones
  const TilePanel& panel;
  TileCodes codes;
  int tiles, stripes, all;  // tiles of weight rows; blocks of a lane, of a row
  int first_lane, lanes;    // at work
  int first_chunk, count;   // blocks of each lane
  bool whole;               // all blocks of these lanes
};

/// Rows [row, row + ...) of x times the codes of `k` for tiles from `c` on of lane `q` (or, where a lane is one block,
/// also of the next), a step of up to two blocks at a time. Sums are those of unit `unit`.
template <int ROW_TILES, int COLS, bool PACKED>
BB_INLINE void multiply_lane(const TileWork& k, int unit, int row, int c, int q,
                             TilePipeline<ROW_TILES, COLS, PACKED>& pipeline) {
  const int block = k.codes.block, group_shift = k.w.group > block ? 1 : 0, lane = k.first_lane + q;
  const bool alone = k.stripes == 1;
  const uint8_t* shifts = k.panel.shifts + size_t(unit) * k.x.block_stride;
  const float* factors = k.panel.factors + size_t(unit) * k.x.block_stride * size_t(2 * pipeline.rows);
  const int in_lane = (k.all - lane + kLanes - 1) / kLanes;  // blocks
  int left = in_lane - k.first_chunk < k.count ? in_lane - k.first_chunk : k.count;
  if (alone) left = k.lanes - q < 2 ? k.lanes - q : 2;
  for (int i = 0; i < left; i += 2) {
    Drain& d = pipeline.next();
    d.blocks = left - i < 2 ? 1 : 2;
    d.alone = alone && d.blocks == 2;
    d.start = alone || k.first_chunk + i == 0;
    d.end = alone || (k.whole && i + 2 >= left);
    d.split = !k.codes.fold;
    const size_t x_block = size_t(lane) * size_t(k.stripes) + size_t(k.first_chunk + i);
    BlockTiles blocks[2];
    for (int b = 0; b < d.blocks; ++b) {
      const int u = alone ? lane + b : lane + (k.first_chunk + i + b) * kLanes;
      const size_t group = size_t(u >> group_shift) * kInt8Cols + size_t(16 * c);
      d.scale[b] = k.panel.scale + group;
      d.bias[b] = k.panel.bias + group;
      const int slot = alone ? q + b : q * k.count + i + b;
      const int8_t* low = k.x.values + size_t(row) * k.x.stride + (x_block + size_t(b)) * size_t(block);
      blocks[b] = {.low = low,
                   .high = low + k.high,
                   .x_stride = k.x.stride,
                   .codes = k.panel.codes + size_t(slot) * k.codes.slot + size_t(c) * k.codes.tile,
                   .tile = k.codes.tile,
                   .folded = size_t(16) * size_t(block)};
      d.factors[b] = factors + (x_block + size_t(b)) * size_t(2 * pipeline.rows);
      if (shifts[x_block + size_t(b)] != kFoldedShift) d.split = true;
    }
    d.shifts = k.x.high_shifts + size_t(row) * k.x.block_stride + x_block;
    d.block_stride = k.x.block_stride;
    const size_t sum = size_t(unit * pipeline.rows) * kInt8Cols + size_t(16 * c);
    d.sums = k.panel.sums + sum;
    d.lane = k.panel.lane + size_t(q) * TilePanel::kLaneSums + sum;
    pipeline.step(blocks);
  }
}

/// A product: up to kInt8Rows rows of x.
struct TileProduct {
  const WeightRows& w;
  const QuantRows& x;
  size_t high;  // from low bytes to high ones
  RowUnits units;
  float* y;
  size_t y_stride;
  const TilePanel& panel;
};

/// y = x·Wᵀ for weight rows [n, last), at most kTilePanels panels of kInt8Cols. Lanes in turn: what a lane of x has
/// stays in the second level while all panels meet it. All panels but the last are whole.
template <int ROW_TILES, int COLS, bool PACKED>
[[gnu::noinline]] inline void tile_panels(const TileProduct& of, int n, int last, int end) {
  const WeightRows& w = of.w;
  const RowUnits& units = of.units;
  const int panels = (last - n + kInt8Cols - 1) / kInt8Cols, tiles = last - n > 32 ? 4 : 2;
  const TileCodes codes(w, tiles, units.rows);
  const int inputs = chunk_inputs(w.bits), chunk_blocks = inputs / codes.block;
  const int apart = kLanes / chunk_blocks, chunks = (w.in + inputs - 1) / inputs, all = w.in / codes.block;
  const int most = int(size_t(kInt8Cols) * kInt8Depth / (codes.slot * size_t(chunk_blocks)));  // chunks of a lane
  const int passes = apart < chunks ? apart : chunks;
  const size_t sums = size_t(units.count * units.rows) * kInt8Cols, panel_bytes = size_t(kInt8Cols) * w.row_bytes;
  for (int i = 0; i < panels; ++i) {
    const TilePanel panel = of.panel.of(i);
    const int begin = n + i * kInt8Cols, stop = last - begin < kInt8Cols ? last : begin + kInt8Cols;
    load_panel_scales(w, begin, stop, tiles, panel.scale, panel.bias);
    __builtin_memset(panel.sums, 0, sums * sizeof(float));
  }
  using Pipeline = TilePipeline<ROW_TILES, COLS, PACKED>;
  const int asks = (chunks * (tiles + units.count) + all * Pipeline::kAsks * (tiles / COLS)) / passes + 1;
  PanelPrefetch prefetch = {nullptr, 0, int(panel_bytes / 64) / asks + 1};
  Pipeline pipeline(of.panel.blocks, prefetch, units.rows);
  for (int p = 0; p < passes; ++p) {
    const int of_lane = (chunks - p + apart - 1) / apart;
    const int lanes = all - p * chunk_blocks < chunk_blocks ? all - p * chunk_blocks : chunk_blocks;
    for (int i = 0; i < panels; ++i) {
      const TilePanel panel = of.panel.of(i);
      const int begin = n + i * kInt8Cols, stop = last - begin < kInt8Cols ? last : begin + kInt8Cols;
      const auto tile_rows = [&](int t) {
        return TileRows(w, begin + 16 * t < stop ? begin + 16 * t : stop - 1, stop);
      };
      const TileRows rows[] = {tile_rows(0), tile_rows(1), tile_rows(2), tile_rows(3)};
      // The first pass asks for the panel that follows, the last one for the first of those that come next.
      const bool next = p == 0 ? i + 1 < panels : p == passes - 1 && i == panels - 1 && last < end;
      if (p == 0 || p == passes - 1) {
        prefetch.next = w.codes + size_t(stop) * w.row_bytes;
        prefetch.left = next ? size_t(end - stop < kInt8Cols ? end - stop : kInt8Cols) * w.row_bytes : 0;
      }
      for (int first = 0; first < of_lane; first += most) {
        const int count = of_lane - first < most ? of_lane - first : most;
        for (int c = 0; c < count; ++c) {
          for (int t = 0; t < tiles; ++t) {
            const int k = (p + (first + c) * apart) * inputs;
            prefetch.step();
            decode_tiles(rows[t], w, codes, k, panel.codes + size_t(c) * codes.slot + size_t(t) * codes.tile,
                         size_t(count) * codes.slot);
          }
        }
        const TileWork work = {.w = w,
                               .x = of.x,
                               .high = of.high,
                               .panel = panel,
                               .codes = codes,
                               .tiles = tiles,
                               .stripes = padded_blocks(w.in, quant_layout(w)) / kLanes,
                               .all = all,
                               .first_lane = p * chunk_blocks,
                               .lanes = lanes,
                               .first_chunk = first,
                               .count = count,
                               .whole = count == of_lane};
        // The codes of a lane stay in the first level while all rows pass.
        for (int q = 0; q < lanes; q += work.stripes == 1 ? 2 : 1) {
          for (int unit = 0; unit < units.count; ++unit) {
            prefetch.step();
            for (int c = 0; c < tiles; c += COLS) multiply_lane(work, unit, units.first(unit), c, q, pipeline);
          }
        }
      }
      if (of_lane <= most) continue;
      pipeline.finish();
      for (int q = 0; q < lanes; ++q)  // that were at work together
        add_lane(panel.lane + size_t(q) * TilePanel::kLaneSums, sums, panel.sums);
    }
  }
  pipeline.finish();
  for (int i = 0; i < panels; ++i) {
    const int begin = n + i * kInt8Cols, cols = last - begin < kInt8Cols ? last - begin : kInt8Cols;
    const float* const from = of.panel.of(i).sums;
    for (int unit = 0; unit < units.count; ++unit) {
      for (int r = 0; r < units.rows; ++r) {
        __builtin_memcpy(of.y + size_t(units.first(unit) + r) * of.y_stride + size_t(begin),
                         from + size_t(unit * units.rows + r) * kInt8Cols, size_t(cols) * 4);
      }
    }
  }
}

/// x's factors in the order in which they are used: rows lie apart in memory, one line for each.
inline void gather_factors(const QuantRows& x, const RowUnits& units, float* out) {
  const size_t blocks = x.block_stride, rows = size_t(units.rows);
  for (int unit = 0; unit < units.count; ++unit, out += 2 * blocks * rows) {
    for (size_t r = 0; r < rows; ++r) {
      const size_t at = (size_t(units.first(unit)) + r) * blocks;
      for (size_t u = 0; u < blocks; ++u) {
        out[2 * (u * rows + r)] = x.scales[at + u];
        out[2 * (u * rows + r) + 1] = x.sums[at + u];
      }
    }
  }
}

/// The largest shift of each block, of every unit of rows.
inline void largest_shifts(const QuantRows& x, const RowUnits& units, uint8_t* out) {
  const size_t blocks = x.block_stride;
  for (int unit = 0; unit < units.count; ++unit, out += blocks) {
    __builtin_memset(out, 0, blocks);
    for (int r = 0; r < units.rows; ++r) {
      const uint8_t* shifts = x.high_shifts + size_t(units.first(unit) + r) * blocks;
      for (size_t u = 0; u < blocks; ++u) out[u] = out[u] > shifts[u] ? out[u] : shifts[u];
    }
  }
}

inline void int8_matmul(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                        size_t y_stride, void* scratch) {
  if (rows <= kDirectRows) return int8_direct(w, first, last, x, rows, y, y_stride);
  if (x.tiles != nullptr && takes_tiles(w)) return int8_stream(w, first, last, x.tiles, rows, y, y_stride, scratch);
  const TilePanel panel(w, scratch);
  // So many rows that what a pass over a lane reads of them stays in the second level.
  const int most = w.in > kLongRow ? kInt8Rows / 2 : kInt8Rows;
  for (int next = 0; next < rows; next += most) {
    // High bytes follow low ones only where all of x is so few rows; a few that are left over go with rows of before.
    const int r = next > 0 && rows - next <= kPackedRows ? rows - kPackedRows - 1 : next;
    const QuantRows some = x.from(r);
    const RowUnits units(rows - r < most ? rows - r : most);
    gather_factors(some, units, panel.factors);
    largest_shifts(some, units, panel.shifts);
    tile_shapes(units.shapes(quant_layout(w).block));
    const TileProduct of = {w, some, size_t(rows) * x.stride, units, y + size_t(r) * y_stride, y_stride, panel};
    for (int n = first, end; n < last; n = end) {
      // A panel of few rows has tiles of its own.
      end = last - n < kInt8Cols
                ? last
                : n + (last - n < kTilePanels * kInt8Cols ? (last - n) / kInt8Cols : kTilePanels) * kInt8Cols;
      if (units.rows > 16) {
        tile_panels<2, 2, false>(of, n, end, last);
      } else if (units.rows > kPackedRows) {
        end - n > 32 ? tile_panels<1, 4, false>(of, n, end, last) : tile_panels<1, 2, false>(of, n, end, last);
      } else {
        end - n > 32 ? tile_panels<1, 4, true>(of, n, end, last) : tile_panels<1, 2, true>(of, n, end, last);
      }
    }
  }
  tile_release();
}
