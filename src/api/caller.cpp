// The thread that called waits a moment at a time: it also looks whether an input was cancelled, since the handle that
// does so may be a signal handler's and can wake nobody.
#include "api/caller.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "api/generator.h"
#include "api/reaper.h"
#include "base/error.h"

namespace bumblebee::text::detail {
namespace {

constexpr std::chrono::milliseconds kMoment{20};

struct Piece {
  std::string text;
  size_t tokens = 0;  // of the answer, up to the one that completed the piece
};

/// Takes what a listener hears to the thread that waits for it.
class Hearing final : public Listener {
 public:
  explicit Hearing(bool pieces) : keeps_pieces_(pieces) {}

  void on_delta(const Delta& delta) noexcept override {
    const std::lock_guard lock(mutex_);
    tokens_ += delta.tokens.size();
    if (!keeps_pieces_ || delta.text.empty()) return;
    try {
      pieces_.push_back({std::string(delta.text), tokens_});
    } catch (const std::bad_alloc&) {
      lost_ = true;
    }
    changed_.notify_all();
  }
  void on_end(std::vector<Result> results) noexcept override {
    const std::lock_guard lock(mutex_);
    result_ = std::move(results.front());
    over_ = true;
    changed_.notify_all();
  }
  void on_error(const Error&) noexcept override {  // RequestState::wait() throws it
    const std::lock_guard lock(mutex_);
    over_ = true;
    changed_.notify_all();
  }

  /// Waits for a piece, or the end, for a moment at most. Throws when memory was too short for a piece.
  std::optional<Piece> next() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kMoment, [this] { return over_ || lost_ || !pieces_.empty(); });
    if (lost_) throw std::bad_alloc();
    if (pieces_.empty()) return std::nullopt;
    Piece piece = std::move(pieces_.front());
    pieces_.pop_front();
    return piece;
  }
  /// Whether nothing more comes, and nothing is left to take.
  bool over() {
    const std::lock_guard lock(mutex_);
    return over_ && pieces_.empty();
  }
  /// After the end; empty after an error.
  std::optional<Result> take_result() {
    const std::lock_guard lock(mutex_);
    return std::move(result_);
  }

 private:
  const bool keeps_pieces_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> pieces_;  // that the caller has not heard yet
  size_t tokens_ = 0;
  bool over_ = false, lost_ = false;
  std::optional<Result> result_;
};

class Call {
 public:
  using Heard = std::function<bool(size_t input, std::string_view piece)>;
  Call(Generator& generator, const Heard& piece) : generator_(generator), piece_(piece) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  /// What is still there when an exception ends the call, nobody waits for.
  ~Call() {
    for (const Member& member : members_) {
      if (member.request != nullptr) member.request->cancel();
    }
  }

  void add(const Input& input) {
    if (input.n != 1) {
      throw Error(ErrorCode::bad_request, "generation",
                  cat("n: expected 1, got ", input.n, "; submit() makes several answers to one input"));
    }
    members_.push_back({.prepared = generator_.prepare(input),
                        .cancel = input.cancel,
                        .progress = input.prompt_progress,
                        .hearing = std::make_shared<Hearing>(bool(piece_)),
                        .request = nullptr,
                        .skipped = false});
  }

  std::vector<Result> results() {
    feed();
    std::vector<Result> results;
    for (size_t i = 0; i < members_.size(); ++i) results.push_back(result_of(i));
    return results;
  }

 private:
  struct Member {
    Generator::Prepared prepared;
    CancelHandle cancel;
    PromptProgress progress;
    std::shared_ptr<Hearing> hearing;
    std::shared_ptr<RequestState> request;  // null: not submitted yet
    bool skipped = false;                   // cancelled before it was
  };

  /// Submits what the queue has room for. Only the first must find some.
  void feed() {
    for (; fed_ < members_.size(); ++fed_) {
      Member& member = members_[fed_];
      member.skipped = stopped_ || member.cancel.cancelled();
      if (member.skipped) continue;
      if (fed_ > 0 && generator_.engine().full(int64_t(member.prepared.request.prompt.size()))) return;
      try {
        member.request = generator_.submit(member.prepared, member.hearing);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::busy || fed_ == 0) throw;
        return;
      }
    }
  }
  void look_around() {
    for (const Member& member : members_) {
      if (member.request != nullptr && (stopped_ || member.cancel.cancelled())) member.request->cancel();
    }
    feed();
  }

  void tell_progress(Member& member) {
    const int total = int(member.prepared.request.prompt.size());
    int told = 0;
    while (!member.hearing->over() && told < total) {
      std::this_thread::sleep_for(kMoment);
      look_around();
      if (const int done = member.request->computed(); done > told) member.progress(told = done, total);
    }
  }

  /// Hands pieces to the caller until there are no more: however long that takes, it holds up nobody else's tokens.
  /// What the callback throws, the caller gets.
  void hand_over(size_t index, Piece piece, Result& heard, bool& enough) {
    if (enough) return;
    heard.text += piece.text;
    heard.token_summary.output = int(piece.tokens);
    stopped_ = !piece_(index, piece.text);
    enough = stopped_ || members_[index].cancel.cancelled();
  }

  Result result_of(size_t index) {
    Member& member = members_[index];
    while (member.request == nullptr && !member.skipped) {
      std::this_thread::sleep_for(kMoment);
      look_around();
    }
    Result heard;
    heard.finish_reason = FinishReason::cancelled;
    heard.seed = member.prepared.request.seed;
    heard.token_summary.input = int(member.prepared.request.prompt.size());
    if (member.skipped) return heard;
    bool enough = stopped_;
    if (member.progress) tell_progress(member);
    while (!member.hearing->over()) {
      if (auto piece = member.hearing->next()) hand_over(index, std::move(*piece), heard, enough);
      look_around();
    }
    std::optional<Result> result = member.hearing->take_result();
    if (!result) member.request->wait();  // throws
    if (enough) {                         // what was computed after the caller had enough is nobody's
      const size_t tokens = size_t(heard.token_summary.output);
      result->text = std::move(heard.text);
      result->finish_reason = FinishReason::cancelled;
      result->token_summary.output = int(tokens);
      result->tokens.resize(tokens);
      if (!result->logprobs.empty()) result->logprobs.resize(tokens);
      result->stop_token.reset();
      result->stop_string.reset();
    }
    return std::move(*result);
  }

  Generator& generator_;
  const Heard& piece_;
  bool stopped_ = false;  // the callback wants no more, of nobody
  std::vector<Member> members_;
  size_t fed_ = 0;
};

}  // namespace

std::vector<Result> call(Generator& generator, std::span<const Input> inputs,
                         const std::function<bool(size_t input, std::string_view piece)>& piece) {
  api::OnServingsThread::refuse("run");
  Call requests(generator, piece);
  for (const Input& input : inputs) requests.add(input);
  return requests.results();
}

}  // namespace bumblebee::text::detail
