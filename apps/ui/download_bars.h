// Progress of a download on stderr: a bar for each file that is being fetched, and one for all. Draws only on a
// terminal.
#pragma once

#include <chrono>
#include <string>

#include "bumblebee/repository.h"
#include "ui/progress.h"

namespace bumblebee::cli {

class DownloadBars {
 public:
  explicit DownloadBars(ProgressBar::Visible visible);
  /// Erases the bars, so that what follows starts on a clean line.
  ~DownloadBars() { clear(); }
  DownloadBars(const DownloadBars&) = delete;
  DownloadBars& operator=(const DownloadBars&) = delete;

  /// Draws at most ten times a second, and nothing for downloads that end within a blink.
  void update(const HubProgress& progress);
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  std::string total_line(const HubProgress& progress, Clock::time_point now);

  bool visible_;
  bool drawn_ = false;
  Clock::time_point start_{}, last_{};
  uint64_t first_done_ = 0;  // what was there before: the speed counts without it
};

}  // namespace bumblebee::cli
