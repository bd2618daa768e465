// Options of a training that mean nothing, refused by name before anything is read.
#include <cmath>

#include "base/error.h"
#include "train/trainer.h"

namespace bumblebee::train {

void check_options(const TrainOptions& o) {
  const auto refuse = [](const char* name, const std::string& expected, auto got) {
    throw Error(ErrorCode::bad_request, "train", cat(name, ": expected ", expected, ", got ", got));
  };
  const auto at_least = [&](const char* name, int least, int got) {
    if (got < least) refuse(name, cat("at least ", least), got);
  };
  at_least("iters", 1, o.iters);
  at_least("batch_size", 1, o.batch_size);
  at_least("grad_accumulation_steps", 1, o.grad_accumulation_steps);
  at_least("max_seq_length", 2, o.max_seq_length);
  at_least("val_batches", -1, o.val_batches);
  at_least("test_batches", -1, o.test_batches);
  at_least("steps_per_report", 1, o.steps_per_report);
  at_least("steps_per_eval", 1, o.steps_per_eval);
  at_least("save_every", 1, o.save_every);
  at_least("keep_checkpoints", 0, o.keep_checkpoints);
  at_least("early_stopping", 0, o.early_stopping);
  at_least("sample_tokens", 1, o.sample_tokens);
  at_least("report_samples", 0, o.report_samples);
  if (!(o.max_grad_norm >= 0) || !std::isfinite(o.max_grad_norm))
    refuse("max_grad_norm", "at least 0", o.max_grad_norm);
  if (!(o.max_loss >= 0)) refuse("max_loss", "at least 0", o.max_loss);
  if (o.adapter_path.empty()) refuse("adapter_path", "a directory", "none");
  if (o.resume && o.keep_checkpoints == 0) refuse("keep_checkpoints", "at least 1 to resume", 0);
  if (o.resume && o.overwrite) refuse("overwrite", "one of resume and overwrite", "both");
}

}  // namespace bumblebee::train
