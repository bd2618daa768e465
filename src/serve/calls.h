// All requests that are being answered: found by number when a client leaves, written to once a step, kept alive while
// they wait, and counted and logged when they end.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "serve/call.h"
#include "serve/log_queue.h"
#include "serve/metrics.h"
#include "serve/openai/errors.h"

namespace bumblebee::serve {

class Calls {
 public:
  Calls(Metrics& metrics, LogQueue& log) : metrics_(metrics), log_(log) {}

  void add(const std::shared_ptr<Call>& call);
  /// The client left, or reads too slowly.
  void left(uint64_t id) noexcept;

  /// Ends: with a whole answer (false: its stream has begun, or it is over), with the end of a stream, or with what
  /// went wrong, as the one or the other.
  bool respond(const std::shared_ptr<Call>& call, HttpResponse response) noexcept;
  void end_stream(const std::shared_ptr<Call>& call, std::string_view last) noexcept;
  void refuse(const std::shared_ptr<Call>& call, const ApiError& error) noexcept;
  /// The same for the exception that is being handled.
  void refuse_current_exception(const std::shared_ptr<Call>& call) noexcept;

  /// Pieces of a stream, which go out with the next flush().
  void add_pieces(const std::shared_ptr<Call>& call, std::string_view pieces);
  void flush() noexcept;
  void keep_alive(std::chrono::milliseconds quiet) noexcept;

  size_t size() const;
  /// The oldest and the newest that there are; without any, the highest and the lowest number.
  std::pair<uint64_t, uint64_t> ids() const;
  /// Until there is none, or it is that late. True: there is none.
  bool wait_until_empty(Call::Clock::time_point latest) const;
  /// Ends all that are left.
  void refuse_all(const ApiError& error) noexcept;

  /// Counts and logs the answer to a request that never became a call. `code`: of its error, or "".
  void answered_on_head(const Asked& asked, int status, const char* code) noexcept;

 private:
  enum class Work : uint8_t { done, cancel };
  bool over(const std::shared_ptr<Call>& call, int status, Work work) noexcept;
  void let_go(const std::shared_ptr<Call>& call) noexcept;
  std::vector<std::shared_ptr<Call>> all() const;

  Metrics& metrics_;
  LogQueue& log_;
  mutable std::mutex mutex_;
  mutable std::condition_variable emptied_;
  std::unordered_map<uint64_t, std::shared_ptr<Call>> calls_;
  std::mutex dirty_mutex_;
  std::vector<std::shared_ptr<Call>> dirty_;
};

/// The error that the exception being handled stands for.
ApiError current_api_error();

}  // namespace bumblebee::serve
