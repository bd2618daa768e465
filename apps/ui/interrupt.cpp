// The signal handler; it only sets flags, as handlers must.
#include "ui/interrupt.h"

#include <csignal>

#include <atomic>

namespace bumblebee::cli::interrupt {

namespace {

// A signal handler reaches nothing but globals; both are lock-free atomics, which is what it may touch.
std::atomic<bool> pressed{false};
std::atomic<text::CancelHandle*> current{nullptr};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<text::CancelHandle*>::is_always_lock_free);

void on_sigint(int signal) {
  if (pressed.exchange(true)) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
    return;
  }
  if (text::CancelHandle* handle = current.load()) handle->cancel();
}

}  // namespace

void install() {
  struct sigaction action {};
  action.sa_handler = on_sigint;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // no SA_RESTART: a read at the prompt must return
  sigaction(SIGINT, &action, nullptr);
  std::signal(SIGPIPE, SIG_DFL);
}

bool requested() { return pressed.load(); }
void clear() { pressed.store(false); }

Scope::Scope(text::CancelHandle& handle) {
  current.store(&handle);
  if (requested()) handle.cancel();
}
Scope::~Scope() { current.store(nullptr); }

}  // namespace bumblebee::cli::interrupt
