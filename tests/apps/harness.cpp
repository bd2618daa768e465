// Starts the program with pipes, feeds it, and collects what it prints and how it ends.
#include "tests/apps/harness.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

namespace bumblebee::apps_test {

namespace {

using Pipe = std::array<int, 2>;

Pipe make_pipe() {
  Pipe ends{};
  if (::pipe(ends.data()) != 0) std::abort();
  return ends;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> out;
  for (std::string& word : words) out.push_back(word.data());
  out.push_back(nullptr);
  return out;
}

[[noreturn]] void become_program(const Call& call, const Pipe& in, const Pipe& out, const Pipe& err) {
  ::dup2(in[0], STDIN_FILENO);
  ::dup2(out[1], STDOUT_FILENO);
  ::dup2(err[1], STDERR_FILENO);
  for (const Pipe& pipe : {in, out, err}) ::close(pipe[0]), ::close(pipe[1]);
  std::vector<std::string> words = {BB_PROGRAM};
  words.insert(words.end(), call.arguments.begin(), call.arguments.end());
  // Offline: a name that is no directory must not send a test to the network.
  std::vector<std::string> variables = {"PATH=/usr/bin:/bin", "HOME=/nonexistent", "LC_ALL=C.UTF-8",
                                        "HF_HUB_OFFLINE=1"};
  for (const auto& [name, value] : call.environment) variables.push_back(name + "=" + value);
  ::execve(BB_PROGRAM, pointers(words).data(), pointers(variables).data());
  ::_exit(127);
}

}  // namespace

Outcome run(const Call& call) {
  ::signal(SIGPIPE, SIG_IGN);
  Pipe in = make_pipe(), out = make_pipe(), err = make_pipe();
  pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGPIPE, SIG_IGN);  // as some parents leave it
    become_program(call, in, out, err);
  }
  ::close(in[0]), ::close(out[1]), ::close(err[1]);
  std::thread feeder([&] {
    size_t sent = 0;
    while (sent < call.input.size()) {
      ssize_t got = ::write(in[1], call.input.data() + sent, call.input.size() - sent);
      if (got <= 0) break;
      sent += size_t(got);
    }
    ::close(in[1]);
  });

  Outcome outcome;
  auto start = std::chrono::steady_clock::now();
  bool interrupted = false;
  std::array<pollfd, 2> ends = {pollfd{out[0], POLLIN, 0}, pollfd{err[0], POLLIN, 0}};
  while (ends[0].fd >= 0 || ends[1].fd >= 0) {
    ::poll(ends.data(), ends.size(), 20);
    for (size_t i = 0; i < ends.size(); ++i) {
      if (ends[i].fd < 0 || ends[i].revents == 0) continue;
      char block[4096];
      ssize_t got = ::read(ends[i].fd, block, sizeof block);
      if (got > 0) (i == 0 ? outcome.out : outcome.err).append(block, size_t(got));
      if (got <= 0) ends[i].fd = -1;
    }
    auto elapsed =
        std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start).count();
    bool due = (call.interrupt_after_ms > 0 && elapsed >= call.interrupt_after_ms) ||
               (!call.interrupt_when_out.empty() && outcome.out.find(call.interrupt_when_out) != std::string::npos);
    if (due && !interrupted) {
      interrupted = true;
      ::kill(child, SIGINT);
    }
  }
  ::close(out[0]), ::close(err[0]);
  feeder.join();
  int status = 0;
  ::waitpid(child, &status, 0);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

Outcome run(const std::vector<std::string>& arguments) { return run(Call{arguments, {}, {}, 0, {}}); }

nlohmann::json Outcome::json() const {
  nlohmann::json value = nlohmann::json::parse(out, nullptr, false);
  EXPECT_FALSE(value.is_discarded()) << "not JSON: " << out << "\nstderr: " << err;
  return value;
}

Scratch::Scratch() {
  std::string name = (std::filesystem::temp_directory_path() / "bumblebee-apps-XXXXXX").string();
  if (!::mkdtemp(name.data())) std::abort();
  path_ = name;
}

Scratch::~Scratch() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string tiny_model() { return BB_TEST_DATA "/apps/tiny"; }
std::string golden_model(const std::string& name) { return BB_TEST_DATA "/goldens/models/" + name; }
std::string tiny_gguf() { return BB_TEST_DATA "/apps/tiny.gguf"; }

void write_file(const std::filesystem::path& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  ASSERT_TRUE(out.good()) << path;
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

void copy_tiny_model(const std::filesystem::path& to) {
  std::filesystem::copy(tiny_model(), to, std::filesystem::copy_options::recursive);
}

}  // namespace bumblebee::apps_test
