// The program as a child that a test can watch, limit and kill.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace bumblebee::hub_test {

struct Outcome {
  int status = -1;  // exit status, or 128 + signal
  std::string out, err;
};

struct Launch {
  std::vector<std::string> arguments;
  std::map<std::string, std::string> environment;  // all of it
  uint64_t file_size_limit = 0;                    // RLIMIT_FSIZE in bytes; 0: none
};

class Process {
 public:
  explicit Process(const Launch& launch);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void kill(int signal) const;
  /// Waits until it has ended; kills it, and fails the test, after `timeout_ms`.
  Outcome wait(int timeout_ms = 1'200'000);
  /// Whether it has ended by itself or otherwise; wait() tells how.
  bool ended() const;

 private:
  pid_t pid_ = -1;
  int out_ = -1, err_ = -1;
};

}  // namespace bumblebee::hub_test
