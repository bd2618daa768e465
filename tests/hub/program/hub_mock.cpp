// The mock as a child process: a line of JSON in, a line of JSON out.
#include "tests/hub/program/hub_mock.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <stdexcept>

namespace bumblebee::hub_test {

MockHub::MockHub() {
  ::signal(SIGPIPE, SIG_IGN);
  std::array<int, 2> in{}, out{};
  if (::pipe2(in.data(), O_CLOEXEC) != 0 || ::pipe2(out.data(), O_CLOEXEC) != 0) std::abort();
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::dup2(in[0], STDIN_FILENO);
    ::dup2(out[1], STDOUT_FILENO);
    ::execlp(BB_PYTHON, BB_PYTHON, BB_MOCK_HUB, static_cast<char*>(nullptr));
    ::_exit(127);
  }
  ::close(in[0]), ::close(out[1]);
  to_ = in[1], from_ = out[0];
  const nlohmann::json addresses = nlohmann::json::parse(read_line());
  hub = addresses.at("hub"), cdn = addresses.at("cdn"), proxy = addresses.at("proxy");
}

MockHub::~MockHub() {
  ::close(to_), ::close(from_);
  ::waitpid(pid_, nullptr, 0);
}

std::string MockHub::read_line() {
  size_t end = 0;
  while ((end = rest_.find('\n')) == std::string::npos) {
    pollfd ready{from_, POLLIN, 0};
    if (::poll(&ready, 1, 60'000) <= 0) throw std::runtime_error("the mock hub does not answer");
    char block[65536];
    const ssize_t got = ::read(from_, block, sizeof block);
    if (got <= 0) throw std::runtime_error("the mock hub has ended; is python3 installed?");
    rest_.append(block, size_t(got));
  }
  std::string line = rest_.substr(0, end);
  rest_.erase(0, end + 1);
  return line;
}

nlohmann::json MockHub::command(const nlohmann::json& order) {
  const std::string line = order.dump() + "\n";
  for (size_t sent = 0; sent < line.size();) {
    const ssize_t got = ::write(to_, line.data() + sent, line.size() - sent);
    if (got <= 0) throw std::runtime_error("the mock hub takes no commands");
    sent += size_t(got);
  }
  nlohmann::json answer = nlohmann::json::parse(read_line());
  if (answer.contains("error")) throw std::runtime_error("mock hub: " + answer["error"].get<std::string>());
  return answer;
}

void MockHub::fault(nlohmann::json rule) {
  rule["op"] = "fault";
  command(rule);
}

void MockHub::repository(const std::string& id, nlohmann::json attributes) {
  attributes["op"] = "repo";
  attributes["repo"] = id;
  command(attributes);
}

std::vector<Request> MockHub::requests(const std::string& where, const std::string& method,
                                       const std::string& path_holds) {
  std::vector<Request> out;
  const nlohmann::json answer = command({{"op", "requests"}});
  for (const nlohmann::json& entry : answer.at("requests")) {
    Request request{entry.at("where"),   entry.at("method"), entry.at("target"), entry.at("path"),
                    entry.at("headers"), entry.at("status"), entry.at("sent"),   entry.at("at")};
    const bool fits = (where.empty() || request.where == where) && (method.empty() || request.method == method) &&
                      request.path.find(path_holds) != std::string::npos;
    if (fits) out.push_back(std::move(request));
  }
  return out;
}

MockHub& mock() {
  static MockHub instance;
  return instance;
}

}  // namespace bumblebee::hub_test
