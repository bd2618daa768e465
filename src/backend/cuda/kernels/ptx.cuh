// The few instructions that C++ has no word for.
#pragma once

#include <cstdint>

namespace bumblebee::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// Programmatic dependent launch: before sm_90 a kernel begins when the one before it has ended, and both do nothing.
__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void prefetch_l2(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

/// What is read once shall leave L2 first.
__device__ __forceinline__ uint64_t read_once_policy() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ void copy_async_16(uint32_t to, const void* from, uint64_t policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "l"(policy)
               : "memory");
}
/// Copies 4, 8 or 16 bytes, and 16 more where `more` is above 16: predicates in place of branches, which cost as much
/// as a stage's copies.
__device__ __forceinline__ void copy_async_by_size(uint32_t to, const void* from, int size, int more) {
  asm volatile(
      "{\n.reg .pred p4, p8, p16, p32;\n"
      "setp.eq.s32 p4, %2, 4;\nsetp.eq.s32 p8, %2, 8;\nsetp.eq.s32 p16, %2, 16;\nsetp.gt.s32 p32, %3, 16;\n"
      "@p8 cp.async.ca.shared.global [%0], [%1], 8;\n@p16 cp.async.ca.shared.global [%0], [%1], 16;\n"
      "@p4 cp.async.ca.shared.global [%0], [%1], 4;\n@p32 cp.async.ca.shared.global [%0 + 16], [%1 + 16], 16;\n}" ::"r"(
          to),
      "l"(from), "r"(size), "r"(more)
      : "memory");
}
/// Copies `valid` bytes and fills up to the size with zeros; nothing is read where valid is 0.
template <int Bytes>
__device__ __forceinline__ void copy_async_small(uint32_t to, const void* from, int valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(Bytes), "r"(valid) : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

/// Gates (mbarriers): a phase ends when all arrivals came and all bytes that were announced are there. A gate's first
/// phase has parity 0; waiting for parity 1 of a new gate returns at once.
__device__ __forceinline__ void gate_init(uint64_t* gate, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(gate)), "r"(arrivals) : "memory");
}
/// After the last gate_init, before the barrier that lets others use the gates.
__device__ __forceinline__ void gates_ready() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
__device__ __forceinline__ void gate_arrive(uint64_t* gate) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(shared_address(gate))
               : "memory");
}
/// Arrives when this thread's asynchronous copies so far are there.
__device__ __forceinline__ void gate_arrive_after_copies(uint64_t* gate) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(gate)) : "memory");
}
__device__ __forceinline__ void gate_wait(uint64_t* gate, uint32_t parity) {
  uint32_t done;
  do {
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(shared_address(gate)), "r"(parity)
                 : "memory");
#else
    asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(shared_address(gate)), "r"(parity)
                 : "memory");
#endif
  } while (done == 0);
}
#if __CUDA_ARCH__ >= 900
/// Announces bytes of copy_bulk; before the arrival that ends the phase.
__device__ __forceinline__ void gate_expect(uint64_t* gate, int bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(gate)), "r"(bytes)
               : "memory");
}
/// Multiples of 16 bytes, at such addresses.
__device__ __forceinline__ void copy_bulk(uint32_t to, const void* from, int bytes, uint64_t* gate) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(shared_address(gate))
               : "memory");
}
/// Asks L2 for multiples of 16 bytes, at such addresses.
__device__ __forceinline__ void prefetch_bulk(const void* from, int bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
/// A box of a tensor (CUtensorMap).
__device__ __forceinline__ void copy_box(uint32_t to, const void* map, int x, int y, int z, uint64_t* gate,
                                         uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
      "l"(map), "r"(x), "r"(y), "r"(z), "r"(shared_address(gate)), "l"(policy)
      : "memory");
}
__device__ __forceinline__ void copy_box(uint32_t to, const void* map, int x, int y, uint64_t* gate, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(map), "r"(x), "r"(y), "r"(shared_address(gate)), "l"(policy)
      : "memory");
}
#endif

/// d = a·b + c, a [16, 32] of u8 and b [32, 8] of s8.
__device__ __forceinline__ void multiply(int (&d)[4], const uint32_t (&a)[4], uint2 b, const int (&c)[4]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

/// Barrier `Id` of `threads`: sync waits for all, arrive only counts.
template <int Id>
__device__ __forceinline__ void barrier_sync(int threads) {
  asm volatile("bar.sync %0, %1;" ::"n"(Id), "r"(threads) : "memory");
}
template <int Id>
__device__ __forceinline__ void barrier_arrive(int threads) {
  asm volatile("bar.arrive %0, %1;" ::"n"(Id), "r"(threads) : "memory");
}

/// Waits until a counter that other blocks raise has reached `least`; what they wrote before is visible then.
__device__ __forceinline__ void wait_counter(const uint32_t* counter, uint32_t least) {
  uint32_t v;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(counter) : "memory");
  } while (v < least);
}

/// Raises a counter by one and returns what it was: this thread's writes before are seen by who finds it raised, and it
/// sees theirs.
__device__ __forceinline__ uint32_t add_to_counter(uint32_t* counter) {
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

/// Raises a counter by one; who sees it with wait_counter() sees what this thread wrote before.
__device__ __forceinline__ void raise_counter(uint32_t* counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}

}  // namespace bumblebee::cuda
