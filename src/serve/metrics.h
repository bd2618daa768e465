// What the server counts, in Prometheus's text format, by vLLM's names. Labels come from fixed sets: no request makes a
// line of its own.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "bumblebee/model.h"
#include "bumblebee/serving.h"
#include "serve/http/http.h"
#include "serve/router.h"

namespace bumblebee::serve {

/// Counts of a value by its size. Written from any thread, read without stopping them.
class Histogram {
 public:
  /// Upper bounds, rising, at most 15.
  explicit constexpr Histogram(std::span<const double> bounds) : bounds_(bounds) {}
  void add(double value) noexcept;
  /// Lines of Prometheus's text format, with HELP and TYPE.
  void print(std::string_view name, std::string_view help, std::string& out) const;

 private:
  std::span<const double> bounds_;
  std::array<std::atomic<uint64_t>, 16> counts_{};
  std::atomic<double> sum_ = 0;
};

class Metrics {
 public:
  Metrics();

  /// `id` null: a path that there is not.
  void answered(const RouteId* id, int status, double seconds) noexcept;
  /// Of one answer that ended, as far as it came.
  void generated(const text::Result& result) noexcept;
  void inter_token(double seconds) noexcept { inter_token_.add(seconds); }
  void ignored(size_t fields) noexcept { ignored_fields_ += fields; }
  void refused() noexcept { ++refused_; }
  void slow_reader() noexcept { ++slow_readers_; }
  void left() noexcept { ++left_; }
  void adapter_load(bool good, double seconds) noexcept;

  struct Now {
    const text::ServingStats* serving = nullptr;  // null while it loads
    HttpStats http;
    AdapterMemory adapters;
    int adapter_count = 0;
    uint64_t requests = 0;  // that are being answered
    uint64_t log_lines_dropped = 0;
  };
  std::string print(const Now& now) const;

 private:
  static constexpr std::array<int, 16> kStatuses = {200, 204, 400, 401, 403, 404, 405, 409,
                                                    413, 415, 429, 499, 500, 502, 503, 504};
  std::array<std::array<std::atomic<uint64_t>, kStatuses.size() + 1>, kRouteCount + 1> answers_{};
  std::array<std::atomic<uint64_t>, 3> finished_{};
  std::atomic<uint64_t> refused_ = 0, ignored_fields_ = 0, slow_readers_ = 0, left_ = 0, loads_good_ = 0,
                        loads_bad_ = 0;
  Histogram first_token_, inter_token_, whole_, queued_, prefill_, decode_, prompt_, output_, swap_;
};

}  // namespace bumblebee::serve
