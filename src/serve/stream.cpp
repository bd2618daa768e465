// Collecting, writing and letting go.
#include "serve/stream.h"

#include <algorithm>

namespace bumblebee::serve {

bool Stream::begin(const Headers& headers) noexcept {
  const std::lock_guard lock(mutex_);
  if (!exchange_) return false;
  if (begun_) return true;
  begun_ = true;
  written_ = Clock::now();
  exchange_->begin(200, headers);
  return true;
}

bool Stream::add(std::string_view piece) {
  const std::lock_guard lock(mutex_);
  if (!exchange_ || piece.empty()) return false;
  const bool first = collected_.empty();
  collected_ += piece;
  return first;
}

bool Stream::write_locked(std::string_view piece, Clock::time_point now) noexcept {
  // The largest piece is not held against a reader: nobody takes the whole prompt that comes back in one moment.
  largest_ = std::max(largest_, piece.size());
  if (exchange_->gone() || exchange_->unsent() + piece.size() > kMostUnsent + largest_) {
    exchange_.reset();
    return false;
  }
  exchange_->write(piece);
  written_ = now;
  return true;
}

bool Stream::flush(Clock::time_point now) noexcept {
  const std::lock_guard lock(mutex_);
  if (!exchange_ || collected_.empty() || !begun_) return true;
  const bool good = write_locked(collected_, now);
  collected_.clear();
  return good;
}

bool Stream::keep_alive(Clock::time_point now, std::chrono::milliseconds quiet) noexcept {
  const std::lock_guard lock(mutex_);
  if (!exchange_ || !begun_ || !collected_.empty() || now - written_ < quiet) return true;
  return write_locked(": keep-alive\n\n", now);
}

void Stream::end(std::string_view last) noexcept {
  const std::lock_guard lock(mutex_);
  if (!exchange_) return;
  // What the reader still gets is bounded already; the end is not held back from a slow one.
  if (!collected_.empty()) exchange_->write(collected_);
  if (!last.empty()) exchange_->write(last);
  exchange_->end();
  collected_.clear();
  exchange_.reset();
}

bool Stream::respond(HttpResponse response) noexcept {
  const std::lock_guard lock(mutex_);
  if (!exchange_ || begun_) return false;
  exchange_->respond(std::move(response));
  exchange_.reset();
  return true;
}

void Stream::drop() noexcept {
  const std::lock_guard lock(mutex_);
  exchange_.reset();
}

}  // namespace bumblebee::serve
