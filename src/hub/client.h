// The Hub's API: what a revision stands for, and which files a commit has. Answers are checked, refusals become
// errors in words.
#pragma once

#include <string>

#include "base/error.h"
#include "hub/http.h"
#include "hub/tree.h"

namespace bumblebee::hub {

/// Whether an error leaves hope in the cache: the Hub could not be reached, is down, or does not know this token.
class Unavailable : public Error {
 public:
  using Error::Error;
};

/// An answer that is no success, as an error: `not_found` (repository, revision, file), `forbidden` (gated, with where
/// to accept; private or unauthorised), `network` (too many requests, the server's own failure). Throws always.
[[noreturn]] void fail_with(const Response& answer, const Settings& settings, const std::string& id,
                            const std::string& revision);
[[noreturn]] void fail_with(const TransferResult& failure, const Settings& settings, const std::string& id);

class Client {
 public:
  /// All three must outlive the client.
  Client(const Settings& settings, Http& http) : settings_(settings), http_(http) {}

  /// The commit, 40 hexadecimal digits. A full commit is returned as it is, without a request. `attempts`: fewer than
  /// RetryPolicy has, when there is something to fall back to; 0: all.
  std::string resolve(const std::string& id, const std::string& revision, int attempts = 0);
  /// All files of a commit. Throws what add_tree_page() throws, too.
  Tree list(const std::string& id, const std::string& commit, int attempts = 0);

 private:
  const Settings& settings_;
  Http& http_;
};

/// "{endpoint}/{id}/resolve/{commit}/{path}"
std::string resolve_url(const Settings& settings, const std::string& id, const std::string& commit,
                        const std::string& path);

}  // namespace bumblebee::hub
