// Every call of the CUDA runtime ends in check(); errors that never go away are remembered for their device.
#include "backend/cuda/device.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <utility>

#include "base/error.h"

namespace bumblebee::cuda {
namespace {

constexpr size_t kMostDevices = 64;
std::array<std::atomic<bool>, kMostDevices> lost_devices;  // of this process
thread_local int current_device = 0;

/// Errors after which every later call fails too, until the process ends.
bool never_goes_away(cudaError_t status) {
  constexpr std::array kErrors = {cudaErrorECCUncorrectable,
                                  cudaErrorHardwareStackError,
                                  cudaErrorIllegalInstruction,
                                  cudaErrorMisalignedAddress,
                                  cudaErrorInvalidAddressSpace,
                                  cudaErrorInvalidPc,
                                  cudaErrorLaunchFailure,
                                  cudaErrorIllegalAddress,
                                  cudaErrorLaunchTimeout,
                                  cudaErrorAssert,
                                  cudaErrorContextIsDestroyed,
                                  cudaErrorNvlinkUncorrectable,
                                  cudaErrorUnknown};
  return std::find(kErrors.begin(), kErrors.end(), status) != kErrors.end();
}

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // one that goes away is not told twice
  const std::string device = cat("cuda:", current_device);
  if (status == cudaErrorMemoryAllocation) throw Error(ErrorCode::out_of_memory, device, cat(what, ": no memory left"));
  const bool lost = never_goes_away(status);
  if (lost) lost_devices[size_t(current_device)] = true;
  throw Error(ErrorCode::device, device,
              cat(what, ": ", cudaGetErrorString(status), lost ? "; the device is lost for this process" : ""));
}

Probe probe(int index) {
  Probe result;
  if (cudaDriverGetVersion(&result.driver) != cudaSuccess) result.driver = 0;
  (void)cudaRuntimeGetVersion(&result.runtime);
  if (result.driver == 0 || result.driver / 1000 < result.runtime / 1000) return result;
  const cudaError_t status = cudaGetDeviceCount(&result.devices);
  if (status != cudaSuccess) {
    (void)cudaGetLastError();
    result.devices = 0;
    if (status != cudaErrorNoDevice) result.error = cudaGetErrorString(status);
    return result;
  }
  cudaDeviceProp properties;
  if (index >= result.devices) return result;
  if (const cudaError_t failed = cudaGetDeviceProperties(&properties, index); failed != cudaSuccess) {
    (void)cudaGetLastError();
    result.error = cudaGetErrorString(failed);
    return result;
  }
  result.name = properties.name;
  result.major = properties.major;
  result.minor = properties.minor;
  return result;
}

bool is_lost(int index) { return lost_devices[size_t(index)]; }

Device::Device(int index) : index_(index) {
  BB_CHECK(index >= 0 && size_t(index) < kMostDevices, "device ", index);
  use();
  int least = 0, greatest = 0;
  check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "stream priorities");
  check(cudaStreamCreateWithPriority(&compute_, cudaStreamNonBlocking, greatest), "create stream");
  check(cudaStreamCreateWithPriority(&upload_, cudaStreamNonBlocking, least), "create stream");
}

Device::~Device() {
  (void)cudaSetDevice(index_);
  (void)cudaStreamDestroy(compute_);
  (void)cudaStreamDestroy(upload_);
}

void Device::use() const {
  current_device = index_;
  check(cudaSetDevice(index_), "use device");
}

void Device::wait() const {
  use();
  check(cudaStreamSynchronize(upload_), "wait for uploads");
  check(cudaStreamSynchronize(compute_), "wait for the computation");
}

std::byte* try_allocate(size_t size) {
  void* data = nullptr;
  auto mode = cudaStreamCaptureModeRelaxed;
  check(cudaThreadExchangeStreamCaptureMode(&mode), "allocate");
  const cudaError_t status = cudaMalloc(&data, std::max<size_t>(size, 1));
  check(cudaThreadExchangeStreamCaptureMode(&mode), "allocate");
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    return nullptr;
  }
  check(status, "allocate");
  return static_cast<std::byte*>(data);
}

void throw_out_of_memory(size_t size) {
  size_t free = 0, total = 0;
  (void)cudaMemGetInfo(&free, &total);
  throw Error(ErrorCode::out_of_memory, cat("cuda:", current_device),
              cat("memory of the device: expected ", size, " bytes free, got ", free));
}

void release(std::byte* data) noexcept {
  if (data == nullptr) return;
  auto mode = cudaStreamCaptureModeRelaxed;
  (void)cudaThreadExchangeStreamCaptureMode(&mode);
  (void)cudaFree(data);
  (void)cudaThreadExchangeStreamCaptureMode(&mode);
  (void)cudaGetLastError();
}

DeviceBytes::DeviceBytes(std::shared_ptr<const Device> device, size_t size, const ByteCounter& counter)
    : device_(std::move(device)), size_(size) {
  device_->use();
  data_ = try_allocate(size);
  if (data_ == nullptr) throw_out_of_memory(size);
  counted_ = CountedBytes(counter, size);
}
DeviceBytes::DeviceBytes(DeviceBytes&& other) noexcept
    : device_(std::move(other.device_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      counted_(std::move(other.counted_)) {}
DeviceBytes& DeviceBytes::operator=(DeviceBytes&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(counted_, other.counted_);
  return *this;
}
DeviceBytes::~DeviceBytes() {
  if (data_ == nullptr) return;
  (void)cudaSetDevice(device_->index());
  release(data_);
}

PinnedBytes::PinnedBytes(size_t size) : size_(size) {
  void* data = nullptr;
  check(cudaMallocHost(&data, std::max<size_t>(size, 1)), "allocate page-locked memory");
  data_ = static_cast<std::byte*>(data);
}
PinnedBytes::PinnedBytes(PinnedBytes&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
PinnedBytes& PinnedBytes::operator=(PinnedBytes&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}
PinnedBytes::~PinnedBytes() {
  if (data_ != nullptr) (void)cudaFreeHost(data_);
}

Event::Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "create event"); }
Event::Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
Event& Event::operator=(Event&& other) noexcept {
  std::swap(event_, other.event_);
  return *this;
}
Event::~Event() {
  if (event_ != nullptr) (void)cudaEventDestroy(event_);
}
void Event::record(cudaStream_t stream) { check(cudaEventRecord(event_, stream), "record event"); }
void Event::wait() const { check(cudaEventSynchronize(event_), "wait for the computation"); }
void Event::hold(cudaStream_t stream) const { check(cudaStreamWaitEvent(stream, event_, 0), "wait for an event"); }

}  // namespace bumblebee::cuda
