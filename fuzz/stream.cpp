// The way out of an answer, told anything in any order, with a reader who takes what he likes and may leave. Each byte
// of the input is one call or one act of the reader. What was added must go out whole, once and in order, unless the
// reader was let go; and what waits for him stays bounded.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "serve/stream.h"

namespace {

using namespace bumblebee::serve;

void check(bool good) {
  if (!good) std::abort();
}

constexpr std::string_view kComment = ": keep-alive\n\n";

/// What the client's side saw. It outlives the exchange.
struct Seen {
  int begun = 0, ended = 0, responded = 0;
  bool gone = false, released = false;
  std::string text;  // without comments
  size_t unsent = 0;
};

class Exchange final : public HttpExchange {
 public:
  explicit Exchange(Seen& seen) : seen_(seen) {}
  ~Exchange() override { seen_.released = true; }
  void respond(HttpResponse) noexcept override {
    check(seen_.begun == 0 && seen_.responded == 0);
    ++seen_.responded;
  }
  void begin(int, const Headers&) noexcept override {
    check(seen_.begun == 0 && seen_.responded == 0);
    ++seen_.begun;
  }
  void write(std::string_view piece) noexcept override {
    check(seen_.ended == 0 && seen_.responded == 0 && !piece.empty());
    seen_.unsent += piece.size();
    if (piece != kComment) seen_.text += piece;
  }
  void end() noexcept override {
    check(seen_.ended == 0);
    ++seen_.ended;
  }
  size_t unsent() const noexcept override { return seen_.unsent; }
  bool gone() const noexcept override { return seen_.gone; }

 private:
  Seen& seen_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Seen seen;
  Stream stream(std::make_shared<Exchange>(seen));
  Stream::Clock::time_point now{};
  std::string added;  // what should have gone out by the end
  size_t largest = 0;
  bool over = false;
  for (size_t i = 0; i < size && i < 200; ++i) {
    const uint8_t value = data[i] >> 3;
    const bool was_over = over;
    switch (data[i] & 7) {
      case 0: check(stream.begin({}) == !was_over); break;
      case 1: {
        // From nothing to an eighth of what may wait.
        const std::string piece(value == 31 ? Stream::kMostUnsent / 8 : size_t(value), char('a' + i % 26));
        stream.add(piece);
        if (!was_over) added += piece;
        break;
      }
      case 2: {
        const size_t before = seen.text.size();
        const bool good = stream.flush(now);
        over = over || !good;
        check(!was_over || good);
        largest = std::max(largest, added.size() - before);
        if (good && !was_over && seen.begun == 1) check(seen.text.size() == added.size());
        break;
      }
      case 3: {
        now += std::chrono::milliseconds(100 * value);
        const bool good = stream.keep_alive(now, std::chrono::milliseconds(1000));
        over = over || !good;
        break;
      }
      case 4: seen.unsent -= std::min(seen.unsent, size_t(value) << 12); break;
      case 5:
        if (value == 0) seen.gone = true;
        break;
      case 6:
        if (value < 4) {
          stream.drop();
          over = true;
        } else if (value < 8) {
          const bool given = stream.respond({});
          check(given == (!was_over && seen.begun == 0));
          over = over || given;
        }
        break;
      case 7:
        if (value < 4) {
          stream.end("end");
          check(was_over || seen.ended == 1);
          if (!was_over) added += "end";
          over = true;
        }
        break;
    }
    check(over == seen.released);
    // The last piece of an ended answer is never held back.
    if (!over) check(seen.unsent <= Stream::kMostUnsent + 2 * largest + kComment.size());
  }
  check(added.starts_with(seen.text) && (seen.ended == 0 || added == seen.text));
  return 0;
}
