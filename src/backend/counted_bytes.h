// Bytes that a backend holds for somebody, counted while their owner lives.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

namespace bumblebee {

using ByteCounter = std::shared_ptr<std::atomic<uint64_t>>;
inline ByteCounter make_byte_counter() { return std::make_shared<std::atomic<uint64_t>>(0); }

/// Adds to a counter, which it keeps alive, and takes back when destroyed.
class CountedBytes {
 public:
  CountedBytes() = default;
  CountedBytes(ByteCounter counter, uint64_t bytes) : counter_(std::move(counter)) { add(bytes); }
  CountedBytes(CountedBytes&& other) noexcept
      : counter_(std::move(other.counter_)), bytes_(std::exchange(other.bytes_, 0)) {}
  CountedBytes& operator=(CountedBytes&& other) noexcept {
    std::swap(counter_, other.counter_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~CountedBytes() { remove(bytes_); }

  uint64_t bytes() const { return bytes_; }
  void add(uint64_t bytes) {
    if (counter_) counter_->fetch_add(bytes, std::memory_order_relaxed);
    bytes_ += bytes;
  }
  void remove(uint64_t bytes) {
    if (counter_) counter_->fetch_sub(bytes, std::memory_order_relaxed);
    bytes_ -= bytes;
  }

 private:
  ByteCounter counter_;
  uint64_t bytes_ = 0;
};

}  // namespace bumblebee
