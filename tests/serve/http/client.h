// A client of raw bytes, which can be as wrong as it likes, and what it reads back.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bumblebee::serve {

struct Answer {
  int status = 0;  // 0: the connection ended before a whole answer
  std::string head;
  std::string body;
  bool complete = false;  // the body reached the end that its framing names

  bool has(std::string_view header_line) const { return head.find(header_line) != std::string::npos; }
};

class Client {
 public:
  explicit Client(int port, const std::string& address = "127.0.0.1", int receive_buffer = 0);
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client() { close(); }

  bool connected() const { return fd_ >= 0; }
  /// False when the peer takes no more.
  bool send(std::string_view bytes);
  /// What comes next, of whatever size; empty at the end. Waits long; a test that hangs is a test that failed.
  std::string receive();
  /// One HTTP/1 answer. `headless`: to HEAD.
  Answer answer(bool headless = false);
  /// Everything until the peer ends or resets the connection.
  std::string rest();
  void half_close();
  void close();
  void reset();

 private:
  int fd_ = -1;
  std::string buffer_;
};

/// "POST path HTTP/1.1" with host, length and body.
std::string post(std::string_view path, std::string_view body, std::string_view more_headers = "");
std::string get(std::string_view path, std::string_view more_headers = "");

/// Open descriptors of this process.
size_t open_descriptors();

}  // namespace bumblebee::serve
