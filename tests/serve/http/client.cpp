// The raw client: blocking sockets, and just enough of HTTP/1 to cut one answer from the next.
#include "tests/serve/http/client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <filesystem>
#include <iterator>
#include <utility>

#include "base/format.h"

namespace bumblebee::serve {
namespace {

uint64_t number(std::string_view text, int base) {
  uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value, base);
  return value;
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

}  // namespace

Client::Client(int port, const std::string& address, int receive_buffer) {
  sockaddr_in6 six = {};
  sockaddr_in four = {};
  const bool is_six = address.find(':') != std::string::npos;
  fd_ = ::socket(is_six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (receive_buffer > 0) ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
  int result = -1;
  if (is_six) {
    six.sin6_family = AF_INET6;
    six.sin6_port = htons(static_cast<uint16_t>(port));
    ::inet_pton(AF_INET6, address.c_str(), &six.sin6_addr);
    result = ::connect(fd_, reinterpret_cast<sockaddr*>(&six), sizeof six);
  } else {
    four.sin_family = AF_INET;
    four.sin_port = htons(static_cast<uint16_t>(port));
    ::inet_pton(AF_INET, address.c_str(), &four.sin_addr);
    result = ::connect(fd_, reinterpret_cast<sockaddr*>(&four), sizeof four);
  }
  if (result != 0) close();
}

bool Client::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const auto sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

std::string Client::receive() {
  if (!buffer_.empty()) return std::exchange(buffer_, {});
  char block[16384];
  const auto size = ::recv(fd_, block, sizeof block, 0);
  return {block, size > 0 ? static_cast<size_t>(size) : 0};
}

Answer Client::answer(bool headless) {
  Answer answer;
  std::string bytes;
  const auto more = [&] {
    const auto piece = receive();
    bytes += piece;
    return !piece.empty();
  };
  size_t end = 0;
  while ((end = bytes.find("\r\n\r\n")) == std::string::npos) {
    if (!more()) return answer;
  }
  answer.head = lower(bytes.substr(0, end + 2));
  bytes.erase(0, end + 4);
  if (answer.head.size() > 12) answer.status = static_cast<int>(number(std::string_view(answer.head).substr(9, 3), 10));
  if (answer.status == 100) {
    buffer_ = bytes;
    return answer;
  }
  const std::string_view length_name = "\r\ncontent-length: ";
  const auto length_at = answer.head.find(length_name);
  if (headless) {
    answer.complete = true;
  } else if (answer.has("transfer-encoding: chunked")) {
    while (true) {
      size_t line = 0;
      while ((line = bytes.find("\r\n")) == std::string::npos) {
        if (!more()) return answer;
      }
      const size_t size = number(std::string_view(bytes).substr(0, line), 16);
      while (bytes.size() < line + 2 + size + 2) {
        if (!more()) return answer;
      }
      answer.body += bytes.substr(line + 2, size);
      bytes.erase(0, line + 2 + size + 2);
      if (size == 0) break;
    }
    answer.complete = true;
  } else if (length_at != std::string::npos) {
    const size_t length = number(std::string_view(answer.head).substr(length_at + length_name.size()), 10);
    while (bytes.size() < length) {
      if (!more()) return answer;
    }
    answer.body = bytes.substr(0, length);
    bytes.erase(0, length);
    answer.complete = true;
  } else {
    while (more()) {
    }
    answer.body = std::exchange(bytes, {});
    answer.complete = true;
  }
  buffer_ = bytes;
  return answer;
}

std::string Client::rest() {
  std::string all;
  for (auto piece = receive(); !piece.empty(); piece = receive()) all += piece;
  return all;
}

void Client::half_close() { ::shutdown(fd_, SHUT_WR); }

void Client::close() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

void Client::reset() {
  const linger now = {1, 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  close();
}

std::string post(std::string_view path, std::string_view body, std::string_view more_headers) {
  return cat("POST ", path, " HTTP/1.1\r\nHost: test\r\n", more_headers, "Content-Length: ", body.size(), "\r\n\r\n",
             body);
}

std::string get(std::string_view path, std::string_view more_headers) {
  return cat("GET ", path, " HTTP/1.1\r\nHost: test\r\n", more_headers, "\r\n");
}

size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

}  // namespace bumblebee::serve
