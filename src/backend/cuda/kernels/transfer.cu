// One block: what is moved is a few kilobytes, and the way to the host is what takes time.
#include "backend/cuda/check.h"
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/transfer.h"

namespace bumblebee::cuda {
namespace {

constexpr int kThreads = 1024;
/// Where there are more, an engine copies them.
constexpr size_t kFew = size_t{16} << 10;

bool are_few(const void* to, const void* from, size_t bytes) {
  const auto of_words = [](size_t x) { return x % sizeof(uint32_t) == 0; };
  return bytes <= kFew && of_words(bytes) && of_words(reinterpret_cast<size_t>(to)) &&
         of_words(reinterpret_cast<size_t>(from));
}

__device__ void move_words(uint32_t* to, const uint32_t* from, int words) {
  for (int i = int(threadIdx.x); i < words; i += kThreads) to[i] = from[i];
}

__device__ void resolve(const BatchView& batch, const int32_t* chosen, int chosen_rows) {
  for (int row = int(threadIdx.x); row < batch.rows; row += kThreads) {
    const int token = batch.tokens[row];
    if (token < 0 && -1 - token < chosen_rows) batch.tokens[row] = chosen[-1 - token];
  }
}

__global__ void fetch_kernel(uint32_t* to, const uint32_t* from, int words) { move_words(to, from, words); }

__global__ void bind_kernel(uint32_t* to, const uint32_t* from, int words, BatchView batch, const int32_t* chosen,
                            int chosen_rows) {
  move_words(to, from, words);
  __syncthreads();
  resolve(batch, chosen, chosen_rows);
}

}  // namespace

void fetch_bytes(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return;
  if (!are_few(to, from, bytes))
    return check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "fetch");
  launch("fetch", fetch_kernel, {1}, {kThreads}, 0, stream, static_cast<uint32_t*>(to),
         static_cast<const uint32_t*>(from), int(bytes / sizeof(uint32_t)));
}

void bind_region(void* to, const void* from, size_t bytes, const BatchView& batch, const int32_t* chosen,
                 int chosen_rows, cudaStream_t stream) {
  int words = int(bytes / sizeof(uint32_t));
  if (chosen_rows == 0 || !are_few(to, from, bytes)) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "bind");
    if (chosen_rows == 0) return;
    words = 0;
  }
  launch("bind", bind_kernel, {1}, {kThreads}, 0, stream, static_cast<uint32_t*>(to),
         static_cast<const uint32_t*>(from), words, batch, chosen, chosen_rows);
}

}  // namespace bumblebee::cuda
