// A pseudo-terminal of 80 columns.
#include "tests/apps/terminal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {

std::vector<std::string> chat_arguments(std::vector<std::string> more) {
  std::vector<std::string> out = {"chat",    "-m", tiny_model(), "--no-history", "--greedy", "--logit-bias",
                                  "65=1000", "-n", "4"};
  out.insert(out.end(), more.begin(), more.end());
  return out;
}

Terminal::Terminal(std::vector<std::string> arguments) {
  screen_ = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (screen_ < 0 || ::grantpt(screen_) != 0 || ::unlockpt(screen_) != 0) std::abort();
  const std::string name = ::ptsname(screen_);
  arguments.insert(arguments.begin(), BB_PROGRAM);
  std::vector<std::string> variables = {"PATH=/usr/bin:/bin", "HOME=/nonexistent", "LC_ALL=C.UTF-8", "TERM=xterm",
                                        "HF_HUB_OFFLINE=1"};
  const auto pointers = [](std::vector<std::string>& words) {
    std::vector<char*> out;
    for (std::string& word : words) out.push_back(word.data());
    out.push_back(nullptr);
    return out;
  };
  const std::vector<char*> argv = pointers(arguments), environment = pointers(variables);
  // Closed by exec: from then on the terminal is the program's, and Ctrl-C a signal to it.
  int started[2];
  if (::pipe2(started, O_CLOEXEC) != 0) std::abort();
  child_ = ::fork();
  if (child_ != 0) {
    ::close(started[1]);
    char none = 0;
    if (::read(started[0], &none, 1) != 0) std::abort();
    ::close(started[0]);
    return;
  }
  ::setsid();
  const int keyboard = ::open(name.c_str(), O_RDWR);
  ::ioctl(keyboard, TIOCSCTTY, 0);
  const winsize size{.ws_row = 24, .ws_col = 80, .ws_xpixel = 0, .ws_ypixel = 0};
  ::ioctl(keyboard, TIOCSWINSZ, &size);
  for (const int end : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(keyboard, end);
  ::signal(SIGPIPE, SIG_DFL);
  ::execve(BB_PROGRAM, argv.data(), environment.data());
  ::_exit(127);
}

Terminal::~Terminal() {
  if (child_ > 0) {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }
  ::close(screen_);
}

void Terminal::type(const std::string& keys) {
  ASSERT_EQ(::write(screen_, keys.data(), keys.size()), ssize_t(keys.size()));
}

bool Terminal::read_more() {
  char block[4096];
  const ssize_t got = ::read(screen_, block, sizeof block);
  if (got > 0) unread_.append(block, size_t(got));
  return got > 0;
}

std::string Terminal::wait_for(const std::string& text) {
  for (;;) {
    if (const size_t at = unread_.find(text); at != std::string::npos) {
      std::string seen = unread_.substr(0, at + text.size());
      unread_.erase(0, seen.size());
      return seen;
    }
    if (!read_more()) {
      ADD_FAILURE() << "the program ended before it showed '" << text << "'; it showed: " << unread_;
      return {};
    }
  }
}

int Terminal::status() {
  while (read_more()) {
  }
  int status = 0;
  ::waitpid(child_, &status, 0);
  child_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace bumblebee::apps_test
