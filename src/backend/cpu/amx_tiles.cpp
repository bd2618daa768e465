// Tiles are 8 KiB more of a thread's state, which the system keeps only for processes that ask: a thread that uses a
// tile without is killed. The system refuses where a thread has too small a stack for signals.
#include "backend/cpu/amx_tiles.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace bumblebee::cpu {

#if defined(__x86_64__) && defined(__linux__)
namespace {

constexpr int kStatesToHave = 0x1021, kAskForState = 0x1023;  // ARCH_GET_XCOMP_SUPP, ARCH_REQ_XCOMP_PERM
constexpr int kTileData = 18;                                 // XFEATURE_XTILEDATA

bool has_int8_tiles() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  constexpr uint32_t kTiles = 1u << 24, kInt8 = 1u << 25;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kTiles) == 0 || (d & kInt8) == 0) return false;
  // Palette 1: bytes a row, number of tiles, rows.
  if (__get_cpuid_count(0x1d, 1, &a, &b, &c, &d) == 0) return false;
  return (b & 0xffff) >= 64 && (b >> 16) >= 8 && (c & 0xffff) >= 16;
}

/// Whether the system saves the tiles' shapes and data when it switches threads.
bool system_keeps_tiles() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  constexpr uint32_t kSystemSaves = 1u << 27, kTileState = 3u << 17;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & kSystemSaves) == 0) return false;
  asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return (a & kTileState) == kTileState;
}

}  // namespace

bool has_tiles() {
  static const bool has = [] {
    uint64_t states = 0;
    return has_int8_tiles() && system_keeps_tiles() && syscall(SYS_arch_prctl, kStatesToHave, &states) == 0 &&
           (states >> kTileData & 1) != 0;
  }();
  return has;
}

bool may_use_tiles() {
  static const bool may = has_tiles() && syscall(SYS_arch_prctl, kAskForState, kTileData) == 0;
  return may;
}
#else
bool has_tiles() { return false; }
bool may_use_tiles() { return false; }
#endif

}  // namespace bumblebee::cpu
