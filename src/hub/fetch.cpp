// The life of one blob. Every attempt starts at the Hub, whose redirect is signed anew each time.
#include "hub/fetch.h"

#include <algorithm>
#include <charconv>
#include <exception>
#include <optional>

#include "base/error.h"
#include "hub/background_digest.h"
#include "hub/client.h"
#include "hub/files.h"
#include "hub/lock.h"
#include "hub/names.h"
#include "hub/partial_file.h"

namespace bumblebee::hub {
namespace {

constexpr uint64_t kLargeFile = uint64_t{8} << 20;
constexpr int kDefects = 3;  // answers that are wrong in themselves: patience changes little

std::optional<uint64_t> number(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return {};
  return value;
}

/// What "bytes 5-9/10" says; nothing for anything else.
struct ContentRange {
  uint64_t first = 0, last = 0;
  std::optional<uint64_t> total;
};
std::optional<ContentRange> content_range(std::string_view text) {
  if (!text.starts_with("bytes ")) return {};
  text.remove_prefix(6);
  const size_t dash = text.find('-'), slash = text.find('/');
  if (dash == std::string_view::npos || slash == std::string_view::npos || dash > slash) return {};
  const auto first = number(text.substr(0, dash)), last = number(text.substr(dash + 1, slash - dash - 1));
  if (!first || !last) return {};
  return ContentRange{*first, *last, number(text.substr(slash + 1))};
}

/// Without W/ and quotes.
std::string plain_etag(std::string etag) {
  if (etag.starts_with("W/")) etag.erase(0, 2);
  std::erase(etag, '"');
  return etag;
}

class Blob {
 public:
  Blob(const Fetch& fetch, Http& http, PartialFile::ResumeMode mode)
      : fetch_(fetch),
        http_(http),
        size_(fetch.file.bytes()),
        file_(fetch.cache.folder() / "blobs", fetch.file.etag(), mode) {
    sink_.begin = [this](const Response& hub, const Response& answer) {
      return guarded([&] { return begin(hub, answer); });
    };
    sink_.write = [this](std::span<const std::byte> bytes) { return guarded([&] { return write(bytes); }); };
  }

  void run() {
    // A wrong byte may have come from anywhere, the earlier run's part included: one more try, from the start.
    for (int round = 0;; ++round) {
      take_up();
      while (file_.size() < size_) attempt();
      const std::string got = digest_->finish();
      if (got == fetch_.file.etag()) return file_.commit(fetch_.cache.blob(got));
      restart();
      if (round > 0)
        throw Error(ErrorCode::bad_file, where(),
                    cat("the content is not what the Hub lists: expected ",
                        fetch_.file.sha256.empty() ? "git blob " : "sha256 ", fetch_.file.etag(), ", got ", got,
                        "; nothing was kept of it"));
    }
  }

 private:
  std::string where() const { return fetch_.id + "/" + fetch_.path; }

  void restart() {
    file_.clear();
    digest_.emplace(fetch_.file.etag(), size_);
    fetch_.done = 0;
  }

  /// Hashes what is there.
  void take_up() {
    if (file_.size() > size_) file_.clear();
    digest_.emplace(fetch_.file.etag(), size_);
    file_.read([this](std::span<const std::byte> bytes) {
      if (fetch_.stop()) throw Error(ErrorCode::cancelled, "download", "cancelled");
      digest_->update(bytes);
    });
    fetch_.done = reached_ = file_.size();
  }

  void attempt() {
    Request request;
    request.url = resolve_url(fetch_.settings, fetch_.id, fetch_.commit, fetch_.path);
    request.timeout = fetch_.settings.download_timeout;
    request.sink = &sink_;
    if (file_.size() > 0) request.range_from = file_.size();
    defect_.clear();
    const TransferResult result = http_.get(request);
    if (failure_) fail_here();
    if (file_.size() > reached_) tries_ = 0;
    reached_ = std::max(reached_, file_.size());
    if (file_.size() == size_) return;
    ++tries_;
    consider(result);
  }

  [[noreturn]] void fail_here() try {
    std::rethrow_exception(failure_);
  } catch (const Error& error) {  // names the disk's file; people know the repository's
    throw Error(error.code(), where(), error.what());
  }

  /// Decides between another attempt and an error.
  void consider(const TransferResult& result) {
    const Response* answer = result.response ? &*result.response : nullptr;
    if (answer != nullptr && answer->status == 416 && file_.size() > 0) {
      restart();  // the server has no such range: what is here is not a part of it
    } else if (answer != nullptr && (answer->status < 200 || answer->status >= 300)) {
      // A signed address of a content server may have expired; the next attempt gets a new one.
      const bool elsewhere = origin_of(answer->url) != origin_of(fetch_.settings.endpoint) && answer->status == 403;
      if (!is_retryable(answer->status) && !elsewhere) fail_with(*answer, fetch_.settings, fetch_.id, fetch_.commit);
      if (!http_.pause(tries_, answer)) fail_with(*answer, fetch_.settings, fetch_.id, fetch_.commit);
      return;
    } else if (result.error == TransferError::tls || result.error == TransferError::proxy ||
               result.error == TransferError::redirects) {
      if (answer == nullptr) fail_with(result, fetch_.settings, fetch_.id);
    }
    const bool hopeless = !defect_.empty() && tries_ >= kDefects;
    if (!hopeless && http_.pause(tries_, nullptr)) return;
    if (!defect_.empty()) throw Error(ErrorCode::network, where(), defect_);
    if (answer == nullptr) fail_with(result, fetch_.settings, fetch_.id);
    throw Unavailable(ErrorCode::network, where(),
                      cat("the download ends early, again and again: expected ", size_, " bytes, got ", file_.size()));
  }

  bool begin(const Response& hub, const Response& answer) {
    defect_ = defect_of(hub, answer);
    if (!defect_.empty()) return false;
    if (answer.status != 206 && file_.size() > 0) restart();  // the whole file, whatever was asked for
    return true;
  }

  std::string defect_of(const Response& hub, const Response& answer) {
    if (const std::string commit = hub.header("x-repo-commit"); !commit.empty() && commit != fetch_.commit)
      return cat("the server answers for another commit: expected ", fetch_.commit, ", got ", commit.substr(0, 60));
    const std::string linked = hub.header("x-linked-etag"),
                      etag = plain_etag(linked.empty() ? hub.header("etag") : linked);
    if ((is_sha1(etag) || is_sha256(etag)) && etag.size() == fetch_.file.etag().size() && etag != fetch_.file.etag())
      return cat("the server answers with another file: expected ", fetch_.file.etag(), ", got ", etag);
    if (const std::string encoding = answer.header("content-encoding"); !encoding.empty() && encoding != "identity")
      return cat("the server sends the file encoded ('", encoding.substr(0, 40), "'), which was not asked for");
    uint64_t from = 0;
    if (answer.status == 206) {
      const auto range = content_range(answer.header("content-range"));
      from = file_.size();
      if (!range || range->first != from || range->last + 1 > size_ || (range->total && *range->total != size_)) {
        restart();  // and without a range, which some servers do not understand
        return cat("the server sends another part: expected bytes ", from, " to ", size_, ", got '",
                   answer.header("content-range").substr(0, 80), "'");
      }
      return "";
    }
    const auto length = number(answer.header("content-length"));
    if (length && *length != size_)
      return cat("the server sends another size: expected ", size_, " bytes, got ", *length);
    return "";
  }

  /// Exceptions may not pass through libcurl.
  template <class F>
  bool guarded(const F& call) {
    try {
      return call();
    } catch (...) {
      failure_ = std::current_exception();
      return false;
    }
  }

  bool write(std::span<const std::byte> bytes) {
    if (bytes.size() > size_ - file_.size()) {
      defect_ = cat("the server sends more than the ", size_, " bytes of the file");
      restart();
      return false;
    }
    file_.append(bytes);
    digest_->update(bytes);
    fetch_.done = file_.size();
    fetch_.received += bytes.size();
    return true;
  }

  const Fetch& fetch_;
  Http& http_;
  const uint64_t size_;
  PartialFile file_;
  std::optional<BackgroundDigest> digest_;
  Sink sink_;
  std::string defect_;          // of the answer that was refused
  std::exception_ptr failure_;  // of the disk
  int tries_ = 0;               // since the file was last longer than ever
  uint64_t reached_ = 0;
};

}  // namespace

void fetch_blob(const Fetch& fetch, Http& http, const std::function<void(bool fetched)>& named) {
  const FileLock lock(fetch.cache.lock(fetch.file.etag()), fetch.stop);
  const bool fetched = !fetch.cache.has_blob(fetch.file);
  if (fetched) {
    // Looking for leftovers reads the whole folder, so small files are looked for only where one was seen.
    const bool look = lock.held() && (fetch.leftovers || fetch.file.bytes() >= kLargeFile);
    Blob(fetch, http, look ? PartialFile::ResumeMode::adopt : PartialFile::ResumeMode::ignore).run();
  }
  fetch.done = fetch.file.bytes();
  named(fetched);
}

}  // namespace bumblebee::hub
