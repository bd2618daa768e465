// Few bytes between the page-locked memory of the host and the device's, by kernels: between two steps a kernel follows
// a kernel sooner than it follows a copy engine. Many bytes are copied. Everything is enqueued on the stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "backend/cuda/kernels/views.h"

namespace bumblebee::cuda {

/// `bytes` at `from` on the device -> `to`, page-locked.
void fetch_bytes(void* to, const void* from, size_t bytes, cudaStream_t stream);
/// `bytes` at `from`, page-locked -> the region at `to`, which `batch` is a view of. Then batch.tokens[r] < 0 becomes
/// chosen[-1 - batch.tokens[r]]; chosen_rows 0: no token is named so, and what follows may read the region before it
/// waits for its inputs. Else embed() has to follow.
void bind_region(void* to, const void* from, size_t bytes, const BatchView& batch, const int32_t* chosen,
                 int chosen_rows, cudaStream_t stream);

}  // namespace bumblebee::cuda
