// What `train` shows: a bar while it learns, a line for each report, and the result.
#pragma once

#include <memory>
#include <string>

#include "bumblebee/train_record.h"
#include "options/common.h"
#include "ui/json_out.h"

namespace bumblebee::cli {

class TrainOutput {
 public:
  explicit TrainOutput(const CommonFlags& common) : common_(common) {}

  /// Callbacks that show, and stop at Ctrl-C. This object must outlive the training.
  TrainCallbacks callbacks();
  void note(const std::string& text);
  /// `from_nothing`: before the first step there was no adapter, only the model.
  void result(const TrainResult& result, const TrainRecord& record, bool from_nothing);
  void plan(const TrainPlan& plan);
  void test(double loss);

 private:
  void bar(const char* label, uint64_t done, uint64_t total, const std::string& remark, double eta_s = -1);
  void line(const std::string& text);
  void comparisons(const TrainResult& result);

  const CommonFlags& common_;
  std::unique_ptr<ProgressBar> bar_;
  std::string label_;
  uint64_t peak_memory_ = 0;
};

}  // namespace bumblebee::cli
