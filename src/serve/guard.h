// Who may ask: keys from files, names that the server answers to, pages of browsers. Decides from the head of a request
// alone, on the I/O thread.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bumblebee/server.h"
#include "serve/http/http.h"
#include "serve/openai/errors.h"
#include "serve/router.h"

namespace bumblebee::serve {

using KeyDigest = std::array<uint8_t, 32>;

/// Digests of keys, under a secret of this process: comparing them says nothing of the keys, however long it takes.
class KeySet {
 public:
  KeySet() = default;
  /// One key a line; blanks around it, empty lines and lines that begin with '#' do not count. Throws Error(bad_file)
  /// for a file that cannot be read, has none, or has one that a header cannot carry.
  static KeySet read(const std::filesystem::path& file);
  bool empty() const { return digests_.empty(); }
  /// Looks at all of them, whichever it is.
  bool contains(const KeyDigest& digest) const;
  static KeyDigest digest(std::string_view key);

 private:
  std::vector<KeyDigest> digests_;
};

struct Caller {
  std::string client;  // of a key: tells keys apart, and is none; else empty
  bool admin = false;
};

class Guard {
 public:
  /// `loopback`: nothing but this machine can reach the server. Throws what KeySet::read() throws.
  Guard(const ServerOptions& options, bool loopback);
  /// Reads the files again, then calls `also`; keeps what it has where one of them throws.
  void reload(const std::function<void()>& also = {});

  /// Host and Origin, which say whether a page of somebody else's makes a browser ask.
  std::optional<ApiError> check_origin(const HttpHead& head) const;
  /// The key. `caller` is filled as far as it is known.
  std::optional<ApiError> check_key(const HttpHead& head, Scope scope, Caller& caller) const;
  /// What lets a page of an allowed origin read the answer; empty for any other request.
  Headers cors(const HttpHead& head) const;
  Headers cors_preflight(const HttpHead& head, std::string_view allow) const;

 private:
  struct Keys {
    KeySet users, admins;
  };
  std::shared_ptr<const Keys> keys() const;
  std::shared_ptr<const Keys> read_keys() const;
  bool allowed_host(std::string_view host) const;
  bool allowed_origin(std::string_view origin) const;

  std::filesystem::path user_file_, admin_file_;
  std::vector<std::string> hosts_, origins_;
  bool loopback_, any_host_;
  mutable std::mutex mutex_;
  std::shared_ptr<const Keys> keys_;
};

}  // namespace bumblebee::serve
