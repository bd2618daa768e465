// A fixed pool that runs one parallel loop at a time. Workers spin briefly and then sleep, so that a host program is
// not starved between steps; a part whose worker has not come by the time the caller is done is taken over by the
// caller, and of a loop in pieces everybody takes what others have not begun, so that a worker that lost its processor
// holds nobody up for longer than a piece.
#pragma once

#include <cstdint>
#include <memory>

#include "base/function_ref.h"
#include "base/partition.h"
#include "base/topology.h"

namespace bumblebee {

class ThreadPool {
 public:
  /// `threads` counts the caller too: 1 means no worker. 0 means default_threads() of this machine.
  explicit ThreadPool(int threads, Pin pin = Pin::automatic);
  explicit ThreadPool(ThreadPlan plan);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;
  /// Where the threads run. Workers are bound as it says unless refused_bindings(); the caller's thread never is.
  const ThreadPlan& plan() const;
  int refused_bindings() const;

  /// Calls body(thread) once for each of the pool's threads and returns when all have finished. The caller runs 0, and
  /// those that no worker has begun by then: `thread` names a part and its memory, not a thread of the system. `body`
  /// must not throw. Not reentrant; one caller at a time.
  void run(FunctionRef<void(int thread)> body);

  /// Calls body(part, piece, thread) once for each of `pieces` pieces (1 to kMostPieces) of each of the pool's threads'
  /// parts. A thread takes its own part's pieces in order, then what has not been begun of others' parts, those of its
  /// node first. `thread` names the memory to use, as in run(). Who takes a piece depends on time: results must not.
  void run_pieces(int pieces, FunctionRef<void(int part, int piece, int thread)> body);
  static constexpr int kMostPieces = 64;

  /// Splits [0, count) into one contiguous range per thread, each a multiple of `grain` long (but the last), and calls
  /// body(first, last, thread) for those that are not empty.
  void for_ranges(int64_t count, int64_t grain, FunctionRef<void(int64_t first, int64_t last, int thread)> body);

  /// Hands out indices 0..count-1 one at a time, for uneven work.
  void for_each(int64_t count, FunctionRef<void(int64_t index, int thread)> body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Threads of a pool that is asked for 0: cores this process may run on, within its quota; at least 1.
int available_cores();

}  // namespace bumblebee
