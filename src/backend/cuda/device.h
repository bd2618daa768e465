// One card: its streams, its errors, and plain memory on it. All calls may come from any thread.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "backend/counted_bytes.h"
#include "backend/cuda/check.h"
#include "backend/cuda/probe.h"

namespace bumblebee::cuda {

/// What driver and runtime say of device `index`; never throws.
Probe probe(int index);
/// Whether an error was seen on it after which nothing works in this process.
bool is_lost(int index);

class Device {
 public:
  /// Throws Error(device).
  explicit Device(int index);
  ~Device();
  Device(const Device&) = delete;

  int index() const { return index_; }
  /// Makes it the calling thread's device. Everything that calls CUDA does it first.
  void use() const;

  /// Steps are computed here, in order.
  cudaStream_t compute() const { return compute_; }
  /// Weights arrive here.
  cudaStream_t upload() const { return upload_; }
  /// Held while the compute stream is recorded, and by who enqueues to it from outside of a step.
  std::mutex& recording() const { return recording_; }

  /// Waits for all that was enqueued. Not while recording.
  void wait() const;

 private:
  int index_ = 0;
  cudaStream_t compute_ = nullptr, upload_ = nullptr;
  mutable std::mutex recording_;
};

/// Memory of its own, outside of any pool; given back when nothing uses the card.
class DeviceBytes {
 public:
  DeviceBytes() = default;
  /// Throws Error(out_of_memory) with the bytes needed and free.
  DeviceBytes(std::shared_ptr<const Device> device, size_t size, const ByteCounter& counter = nullptr);
  DeviceBytes(DeviceBytes&& other) noexcept;
  DeviceBytes& operator=(DeviceBytes&& other) noexcept;
  ~DeviceBytes();
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::shared_ptr<const Device> device_;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  CountedBytes counted_;
};

/// cudaMalloc, also while this thread records. Null where there is none; throws Error(device) for anything else.
std::byte* try_allocate(size_t size);
/// The error of an allocation of `size` that failed.
[[noreturn]] void throw_out_of_memory(size_t size);
/// cudaFree that never fails: used by destructors, also after the card was lost.
void release(std::byte* data) noexcept;

/// Page-locked memory of the host.
class PinnedBytes {
 public:
  PinnedBytes() = default;
  explicit PinnedBytes(size_t size);
  PinnedBytes(PinnedBytes&& other) noexcept;
  PinnedBytes& operator=(PinnedBytes&& other) noexcept;
  ~PinnedBytes();
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  std::span<std::byte> span(size_t count) const { return {data_, count}; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// A point in a stream.
class Event {
 public:
  Event();
  Event(Event&& other) noexcept;
  Event& operator=(Event&& other) noexcept;
  ~Event();
  void record(cudaStream_t stream);
  /// The host waits; at once where nothing was recorded.
  void wait() const;
  /// What `stream` is given from now on waits.
  void hold(cudaStream_t stream) const;

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace bumblebee::cuda
