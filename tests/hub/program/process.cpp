// Standard output and error go to memory files: nothing has to be drained while the child runs.
#include "tests/hub/program/process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

namespace bumblebee::hub_test {
namespace {

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> out;
  for (std::string& word : words) out.push_back(word.data());
  out.push_back(nullptr);
  return out;
}

std::string contents(int file) {
  std::string text(size_t(::lseek(file, 0, SEEK_END)), '\0');
  if (::pread(file, text.data(), text.size(), 0) < 0) text.clear();
  return text;
}

}  // namespace

Process::Process(const Launch& launch) {
  out_ = ::memfd_create("out", MFD_CLOEXEC);
  err_ = ::memfd_create("err", MFD_CLOEXEC);
  std::vector<std::string> words = {BB_PROGRAM}, variables;
  words.insert(words.end(), launch.arguments.begin(), launch.arguments.end());
  for (const auto& [name, value] : launch.environment) variables.push_back(name + "=" + value);
  const std::vector<char*> argv = pointers(words), envp = pointers(variables);
  pid_ = ::fork();
  if (pid_ != 0) return;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::dup2(out_, STDOUT_FILENO);
  ::dup2(err_, STDERR_FILENO);
  if (launch.file_size_limit > 0) {
    const rlimit limit{launch.file_size_limit, launch.file_size_limit};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    ::signal(SIGXFSZ, SIG_IGN);  // write() then fails with EFBIG
  }
  ::execve(BB_PROGRAM, argv.data(), envp.data());
  ::_exit(127);
}

Process::~Process() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  ::close(out_), ::close(err_);
}

void Process::kill(int signal) const {
  if (pid_ > 0) ::kill(pid_, signal);
}

bool Process::ended() const {
  siginfo_t what{};
  return ::waitid(P_PID, id_t(pid_), &what, WEXITED | WNOHANG | WNOWAIT) == 0 && what.si_pid == pid_;
}

Outcome Process::wait(int timeout_ms) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  int status = 0;
  while (::waitpid(pid_, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > end) {
      ADD_FAILURE() << "the program does not end: " << contents(err_);
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, &status, 0);
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  pid_ = -1;
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), contents(out_), contents(err_)};
}

}  // namespace bumblebee::hub_test
