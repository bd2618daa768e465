// The signal handler; it only sets flags, as handlers must.
#include "ui/interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>

namespace bumblebee::cli::interrupt {

namespace {

// A signal handler reaches nothing but globals; both are lock-free atomics, which is what it may touch.
std::atomic<bool> pressed{false};
std::atomic<text::CancelHandle*> current{nullptr};
std::atomic<int> bell{-1};  // an eventfd: what waits for input hears of Ctrl-C by it
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<text::CancelHandle*>::is_always_lock_free);

void on_sigint(int signal) {
  if (pressed.exchange(true)) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
    return;
  }
  if (text::CancelHandle* handle = current.load()) handle->cancel();
  const int before = errno;
  const uint64_t once = 1;
  if (::write(bell.load(), &once, sizeof once) < 0) errno = before;
}

}  // namespace

void install() {
  bell.store(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  struct sigaction action {};
  action.sa_handler = on_sigint;
  sigemptyset(&action.sa_mask);
  // What is being written must not be cut short by the key. Whoever reads waits with wait_readable(), which hears of
  // it.
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  std::signal(SIGPIPE, SIG_DFL);
}

bool requested() { return pressed.load(); }
void clear() {
  pressed.store(false);
  uint64_t heard = 0;
  while (::read(bell.load(), &heard, sizeof heard) > 0) {
  }
}

bool wait_readable(int file) {
  std::array<pollfd, 2> ends = {pollfd{file, POLLIN, 0}, pollfd{bell.load(), POLLIN, 0}};
  while (!requested()) {
    const int ready = ::poll(ends.data(), ends.size(), -1);
    if (ready < 0 && errno != EINTR) return true;  // reading will say why
    if (ready > 0 && ends[0].revents != 0 && !requested()) return true;
  }
  return false;
}

Scope::Scope(text::CancelHandle& handle) {
  current.store(&handle);
  if (requested()) handle.cancel();
}
Scope::~Scope() { current.store(nullptr); }

}  // namespace bumblebee::cli::interrupt
