// Tests of what is below the backend: skipped where there is no card, failed there with BB_REQUIRE_GPU=1.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string_view>

namespace bumblebee::cuda {

class NeedsCard : public testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaSuccess && count > 0) return;
    const char* required = std::getenv("BB_REQUIRE_GPU");
    if (required != nullptr && std::string_view(required) == "1") FAIL() << cudaGetErrorString(status);
    GTEST_SKIP() << cudaGetErrorString(status);
  }
};

}  // namespace bumblebee::cuda
