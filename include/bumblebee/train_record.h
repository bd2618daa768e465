// A record of a training that people and programs can read: metrics.jsonl, a line for everything that is reported, and
// report.html, one page with its curves and samples that needs nothing else.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bumblebee/train.h"

namespace bumblebee {

class TrainRecord {
 public:
  struct Options {
    std::string title = "Training";
    std::vector<std::pair<std::string, std::string>> facts = {};  // shown in the report: name and value
    bool resume = false;  // keeps the lines of an earlier run up to where this one goes on; else they are replaced
  };

  /// Nothing is written before training has started. `directory` is made when it is missing then.
  TrainRecord(std::filesystem::path directory, Options options);

  /// Callbacks that record and then call `inner`. They share this record's state and may outlive it. What fails while
  /// writing throws Error(bad_file), which ends the training.
  TrainCallbacks callbacks(TrainCallbacks inner = {}) const;
  /// Writes the end, and the report once more.
  void finish(const TrainResult& result) const;
  /// Writes the report as things stand, for instance when the training ended with an error. Nothing before the start.
  void write_report() const;

  std::filesystem::path metrics_path() const;
  std::filesystem::path report_path() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace bumblebee
