// Bytes on their way to a card: pieces by several threads, callers side by side, and the compute stream that waits.
#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

#include "backend/cuda/check.h"
#include "backend/cuda/memory.h"
#include "tests/backend/cuda/needs_card.h"

namespace bumblebee::cuda {
namespace {

using Upload = NeedsCard;

std::vector<std::byte> bytes_of(size_t size, uint32_t seed) {
  std::vector<std::byte> bytes(size);
  for (std::byte& b : bytes) b = std::byte((seed = seed * 1664525u + 1013904223u) >> 24);
  return bytes;
}

/// As a kernel would see them: by the compute stream, without another wait.
std::vector<std::byte> seen(const Device& device, const DeviceBytes& at, size_t size) {
  std::vector<std::byte> bytes(size);
  device.use();
  check(cudaMemcpyAsync(bytes.data(), at.data(), size, cudaMemcpyDeviceToHost, device.compute()), "read");
  check(cudaStreamSynchronize(device.compute()), "read");
  return bytes;
}

TEST_F(Upload, BringsEveryByteOfAnyLength) {
  const auto device = std::make_shared<const Device>(0);
  Uploader uploader(device);
  constexpr size_t kMegabyte = size_t{1} << 20;
  for (int round = 0; round < 2; ++round) {  // the second after the threads have ended
    for (const size_t size : {size_t{1}, size_t{4099}, 2 * kMegabyte, 2 * kMegabyte + 1, 67 * kMegabyte + 13}) {
      const DeviceBytes at(device, size);
      const std::vector<std::byte> bytes = bytes_of(size, uint32_t(size) + uint32_t(round));
      uploader.copy(bytes, at.data());
      EXPECT_TRUE(seen(*device, at, size) == bytes) << size;
    }
    uploader.finish();
  }
}

TEST_F(Upload, TakesCallersSideBySide) {
  const auto device = std::make_shared<const Device>(0);
  Uploader uploader(device);
  constexpr size_t kSize = 5000001;
  std::vector<std::vector<std::byte>> bytes;
  std::vector<DeviceBytes> at;
  for (uint32_t t = 0; t < 3; ++t) {
    bytes.push_back(bytes_of(kSize, t));
    at.emplace_back(device, kSize);
  }
  std::vector<std::thread> threads;
  for (size_t t = 0; t < bytes.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 4; ++i) uploader.copy(bytes[t], at[t].data());
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t t = 0; t < bytes.size(); ++t) EXPECT_TRUE(seen(*device, at[t], kSize) == bytes[t]) << t;
}

}  // namespace
}  // namespace bumblebee::cuda
