// Three phases (what the revision is, what it has, what is missing) and as many threads as files go side by side.
#include "hub/download.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/format.h"
#include "base/log.h"
#include "hub/cache.h"
#include "hub/client.h"
#include "hub/download_progress.h"
#include "hub/fetch.h"
#include "hub/files.h"
#include "hub/names.h"
#include "hub/partial_file.h"

namespace fs = std::filesystem;

namespace bumblebee::hub {
namespace {

constexpr auto kShowEvery = std::chrono::milliseconds(50);

/// Threads that start while this lives take no signals: the program's handlers stay on the program's threads, and a
/// connection that breaks while TLS writes is no SIGPIPE.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&all, fault);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

/// Content to fetch once, and every path that has it.
struct Task {
  const TreeFile* file;
  std::vector<std::string> paths;
  DownloadProgress::Entry* entry = nullptr;
};

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(3, names.size()); ++i) text += cat(i == 0 ? "" : ", ", names[i]);
  return names.size() <= 3 ? text : cat(text, " and ", names.size() - 3, " more");
}

std::string megabytes(uint64_t bytes) { return format("{:.2f} MB", double(bytes) / 1e6); }

/// The snapshot in the cache when nothing is missing; an empty path otherwise.
fs::path whole_snapshot(const Settings& settings, const Download& what, Doubt doubt) try {
  const RepositoryCache cache(settings.cache, what.id);
  const std::string commit = cache.resolve(what.revision);
  std::error_code ignored;
  if (commit.empty() || !fs::is_directory(cache.snapshot(commit) / what.selection.subdir, ignored)) return {};
  return missing_files(cache, commit, what.selection, doubt).empty() ? cache.snapshot(commit) : fs::path();
} catch (const Error&) {  // a ref or an index that is broken: the Hub has a good one
  return {};
}

class Job {
 public:
  Job(const Settings& settings, const Download& what)
      : settings_(settings), what_(what), cache_(settings.cache, what.id) {}

  Downloaded run() {
    std::mutex mutex;
    std::condition_variable changed;
    bool over = false;
    std::exception_ptr failure;
    std::optional<SignalsBlocked> blocked(std::in_place);
    std::thread driver([&] {
      try {
        drive();
      } catch (...) {
        failure = std::current_exception();
      }
      const std::lock_guard lock(mutex);
      over = true;
      changed.notify_one();
    });
    blocked.reset();
    std::exception_ptr thrown = watch(mutex, changed, over);
    driver.join();
    if (thrown) std::rethrow_exception(thrown);
    if (failure) std::rethrow_exception(failure);
    if (what_.progress) what_.progress(progress_.read());
    if (!result_.stale.empty())
      log(LogLevel::warning, "hub not heard: id='", what_.id, "' used=", result_.commit, " why='", result_.stale, "'");
    log(LogLevel::info, "hub files: id='", what_.id, "' commit=", result_.commit, " files=", result_.files,
        " fetched_files=", result_.fetched_files, " bytes=", result_.bytes, " fetched_bytes=", result_.fetched_bytes);
    return std::move(result_);
  }

 private:
  /// Calls the progress callback until the driver is done; what the callback throws is returned.
  std::exception_ptr watch(std::mutex& mutex, std::condition_variable& changed, bool& over) {
    std::unique_lock lock(mutex);
    std::exception_ptr thrown;
    while (!changed.wait_for(lock, kShowEvery, [&] { return over; })) {
      if (!what_.progress || stopped_) continue;
      lock.unlock();
      try {
        if (!what_.progress(progress_.read())) stopped_ = true;
      } catch (...) {
        thrown = std::current_exception();
        stopped_ = true;
      }
      lock.lock();
    }
    return thrown;
  }

  std::function<bool()> stop() {
    return [this] { return stopped_.load(); };
  }

  void drive() {
    if (settings_.offline)
      return use_cache(
          "the Hub may not be asked (HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE, or the application, says offline)", nullptr);
    Tree tree;
    Http http(settings_, stop());
    try {
      Client client(settings_, http);
      // With something to fall back to, one question is enough.
      const int attempts = whole_snapshot(settings_, what_, Doubt::passes).empty() ? 0 : 1;
      result_.commit = client.resolve(what_.id, what_.revision, attempts);
      std::optional<Tree> kept = cache_.read_tree(result_.commit);
      tree = kept ? std::move(*kept) : client.list(what_.id, result_.commit, attempts);
    } catch (const Unavailable& error) {
      return use_cache(error.what(), &error);
    }
    take(tree, http);
  }

  /// A whole snapshot of the cache in place of an answer; otherwise an error, `unavailable` when there is one.
  void use_cache(const std::string& why, const Unavailable* unavailable) {
    const std::string commit = cache_.resolve(what_.revision);
    std::error_code ignored;
    if (commit.empty() || !fs::is_directory(cache_.snapshot(commit), ignored)) {
      if (unavailable != nullptr) throw Unavailable(*unavailable);
      const fs::path absent = commit.empty() ? cache_.folder() / "refs" / what_.revision : cache_.snapshot(commit);
      throw Error(ErrorCode::bad_file, what_.id,
                  cat("revision '", what_.revision, "' is not in the cache (no ", absent.string(), "), and ", why));
    }
    const std::vector<std::string> missing = missing_files(cache_, commit, what_.selection, Doubt::passes);
    if (!missing.empty()) {
      const std::string lacks =
          cat("the cache lacks ", listed(missing), " (`bumblebee pull ", what_.id, "` fetches what is missing)");
      const std::string start = cat("[", what_.id, "] ");  // said once
      const std::string_view rest = std::string_view(why).substr(why.starts_with(start) ? start.size() : 0);
      if (unavailable != nullptr) throw Unavailable(unavailable->code(), what_.id, cat(lacks, "; ", rest));
      throw Error(ErrorCode::bad_file, what_.id, cat(lacks, ", and ", why));
    }
    result_.commit = commit;
    result_.snapshot = cache_.snapshot(commit);
    result_.stale = why;
    if (const auto tree = cache_.read_tree(commit)) count(*tree, select(*tree, what_.selection));
  }

  void count(const Tree& tree, const std::vector<std::string>& chosen) {
    result_.files = int(chosen.size());
    for (const std::string& path : chosen) result_.bytes += tree.find(path)->second.bytes();
  }

  void take(const Tree& tree, Http& http) {
    const std::vector<std::string> chosen = select(tree, what_.selection);
    check_paths(chosen, what_.id);
    if (chosen.empty()) {
      const std::string in = what_.selection.subdir.empty() ? "" : cat(" in the folder '", what_.selection.subdir, "'");
      throw Error(ErrorCode::not_found, what_.id,
                  cat("commit ", result_.commit, " has none of the files that are wanted", in, " (", tree.size(),
                      " others); patterns of other files can be given"));
    }
    count(tree, chosen);
    result_.snapshot = cache_.snapshot(result_.commit);
    make_tasks(tree, chosen);
    if (!tasks_.empty()) {
      cache_.create();
      cache_.write_tree(result_.commit, tree);
      check_space();
      fetch_all(http);
    } else if (!cache_.read_tree(result_.commit)) {
      cache_.write_tree(result_.commit, tree);
    }
    // Last: until everything is there, the ref leads to the older snapshot, which is whole.
    if (older_has_more()) return;
    try {
      cache_.write_ref(what_.revision, result_.commit);
    } catch (const Error& error) {  // a cache that is only read needs no newer ref
      if (!tasks_.empty())
        throw Error(error.code(), what_.id,
                    cat("everything is there, but not under the name '", what_.revision, "': ", error.what()));
    }
  }

  /// Whether the ref leads to a snapshot with weights, and this one has none: a look at the text alone would take the
  /// model away from whoever is offline later.
  bool older_has_more() const try {
    if (what_.selection.weights) return false;
    Selection whole = what_.selection;
    whole.weights = true;
    const auto lacks = [&](const std::string& commit) {
      return !missing_files(cache_, commit, whole, Doubt::passes).empty();
    };
    const std::string older = cache_.resolve(what_.revision);
    return !older.empty() && older != result_.commit && !lacks(older) && lacks(result_.commit);
  } catch (const Error&) {  // a broken ref leads nowhere
    return false;
  }

  void make_tasks(const Tree& tree, const std::vector<std::string>& chosen) {
    std::map<std::string, Task> by_etag;
    for (const std::string& path : chosen) {
      const TreeFile& file = tree.find(path)->second;
      if (cache_.has_file(result_.commit, path, file)) continue;
      Task& task = by_etag[file.etag()];
      task.file = &file;
      task.paths.push_back(path);
    }
    for (auto& [etag, task] : by_etag) tasks_.push_back(std::move(task));
    // Large files first: they take the longest, and small ones fill the gaps.
    std::stable_sort(tasks_.begin(), tasks_.end(),
                     [](const Task& a, const Task& b) { return a.file->bytes() > b.file->bytes(); });
    for (Task& task : tasks_) task.entry = &progress_.add(task.paths.front(), task.file->bytes());
    progress_.open();
    partials_ = list_partials(cache_.folder() / "blobs");
  }

  uint64_t partial_bytes(const TreeFile& file) const {
    const auto it = partials_.find(file.etag());
    return it == partials_.end() ? 0 : std::min(it->second, file.bytes());
  }

  void check_space() const {
    uint64_t wanted = 0;
    for (const Task& task : tasks_) {
      const bool links = settings_.symlinks, here = cache_.has_blob(*task.file);
      const uint64_t copies = links ? 0 : (task.paths.size() - (here ? 0 : 1)) * task.file->bytes();
      wanted += copies + (here ? 0 : task.file->bytes() - partial_bytes(*task.file));
    }
    const uint64_t free = std::min(free_bytes(cache_.folder()), settings_.free_bytes_at_most);
    if (wanted > free)
      throw Error(
          ErrorCode::bad_file, cache_.folder().string(),
          cat("the disk is full: ", megabytes(wanted), " are to be fetched, ", megabytes(free),
              " are free; make room ('bumblebee cache rm', 'cache prune'), or set HF_HUB_CACHE to another disk"));
  }

  void fetch_all(Http& http) {
    const int workers = std::clamp(settings_.workers, 1, int(std::min<size_t>(tasks_.size(), 64)));
    std::vector<std::thread> others;
    for (int i = 1; i < workers; ++i) {
      try {
        others.emplace_back([this] { work_alone(); });
      } catch (const std::system_error&) {  // no more threads: these do
        break;
      }
    }
    work(http);
    for (std::thread& thread : others) thread.join();
    sync_directory(cache_.folder() / "blobs");
    std::set<fs::path> folders;
    for (const Task& task : tasks_) {
      for (const std::string& path : task.paths) folders.insert((result_.snapshot / path).parent_path());
    }
    for (const fs::path& folder : folders) sync_directory(folder);
    result_.fetched_bytes = received_;
    result_.fetched_files = fetched_;
    if (failure_) std::rethrow_exception(failure_);
    if (stopped_) throw Error(ErrorCode::cancelled, what_.id, "cancelled; the next download goes on from here");
  }

  void note(std::exception_ptr failure) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::move(failure);
    stopped_ = true;  // the others end, and keep what they have
  }

  void work_alone() {
    try {
      Http http(settings_, stop());
      work(http);
    } catch (...) {
      note(std::current_exception());
    }
  }

  void work(Http& http) {
    for (size_t i = next_++; i < tasks_.size() && !stopped_; i = next_++) {
      try {
        fetch(tasks_[i], http);
      } catch (...) {
        return note(std::current_exception());
      }
    }
  }

  void fetch(Task& task, Http& http) {
    task.entry->state = DownloadProgress::Entry::State::active;
    const Fetch fetch{settings_,
                      cache_,
                      what_.id,
                      result_.commit,
                      task.paths.front(),
                      *task.file,
                      partials_.contains(task.file->etag()),
                      task.entry->done,
                      received_,
                      stop()};
    fetch_blob(fetch, http, [&](bool fetched) {
      for (size_t i = task.paths.size(); i-- > 0;) {
        const auto owner = fetched && i == 0 ? RepositoryCache::Blob::own : RepositoryCache::Blob::shared;
        cache_.link(result_.commit, task.paths[i], task.file->etag(), settings_.symlinks, owner);
      }
      if (fetched) ++fetched_;
    });
    task.entry->state = DownloadProgress::Entry::State::finished;
  }

  const Settings& settings_;
  const Download& what_;
  const RepositoryCache cache_;
  Downloaded result_;
  std::vector<Task> tasks_;
  std::map<std::string, uint64_t> partials_;
  DownloadProgress progress_;
  std::atomic<bool> stopped_{false};
  std::atomic<size_t> next_{0};
  std::atomic<uint64_t> received_{0};
  std::atomic<int> fetched_{0};
  std::mutex mutex_;
  std::exception_ptr failure_;  // of the first worker that failed
};

void check(const Download& what) {
  if (!is_repository_id(what.id))
    throw Error(ErrorCode::bad_request, "hub",
                cat("expected a repository id of the form org/name (letters, digits, '-', '_', '.'), got '",
                    what.id.substr(0, 200), "'"));
  if (!is_revision(what.revision))
    throw Error(ErrorCode::bad_request, what.id,
                cat("expected a branch, tag or commit, got '", what.revision.substr(0, 200), "'"));
  if (!what.selection.subdir.empty() && !path_defect(what.selection.subdir).empty())
    throw Error(ErrorCode::bad_request, what.id,
                cat("expected a folder inside the repository, got '", what.selection.subdir.substr(0, 200), "'"));
}

}  // namespace

Downloaded download(const Settings& settings, const Download& what) {
  check(what);
  return Job(settings, what).run();
}

fs::path cached_snapshot(const Settings& settings, const Download& what) {
  check(what);
  return whole_snapshot(settings, what, Doubt::counts);
}

}  // namespace bumblebee::hub
