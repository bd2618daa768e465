// Formats numbers the way mlx_lm.lora's users read them.
#include "commands/train_output.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>

#include "ui/interrupt.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

__attribute__((format(printf, 1, 2))) std::string format(const char* pattern, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

std::string memory(uint64_t bytes) { return bytes ? human_bytes(double(bytes)) : "not measured"; }

std::string duration(double seconds) {
  if (seconds < 100) return format("%.1f s", seconds);
  if (seconds < 6000) return format("%.0f min", seconds / 60);
  return format("%.1f h", seconds / 3600);
}

OutJson optional(const std::optional<double>& value) { return value ? OutJson(*value) : OutJson(nullptr); }

long long count(int64_t value) { return static_cast<long long>(value); }

}  // namespace

void TrainOutput::bar(const char* label, uint64_t done, uint64_t total, const std::string& remark, double eta_s) {
  if (!bar_ || label_ != label) {
    bar_.reset();
    bar_ = std::make_unique<ProgressBar>(label, ProgressBar::Unit::items, common_.progress());
    label_ = label;
  }
  bar_->update(done, total, remark, eta_s);
}

void TrainOutput::line(const std::string& text) {
  if (bar_) bar_->clear();
  if (!common_.json) write_out(text + "\n");
}

void TrainOutput::note(const std::string& text) {
  if (bar_) bar_->clear();
  std::fprintf(stderr, "note: %s\n", one_line(text).c_str());
}

TrainCallbacks TrainOutput::callbacks() {
  TrainCallbacks out;
  out.started = [this](const TrainPlan& plan) {
    line(format("training   %s of %s parameters (%.3f %%), %d modules in %d layers",
                human_count(double(plan.trainable_parameters)).c_str(), human_count(double(plan.parameters)).c_str(),
                100 * double(plan.trainable_parameters) / double(std::max<uint64_t>(plan.parameters, 1)), plan.modules,
                plan.layers));
    line(format("data       %lld rows to learn, %lld to validate; %lld cut; %lld batches of %lld tokens an epoch",
                count(plan.rows), count(plan.valid_rows), count(plan.truncated_rows), count(plan.batches),
                count(plan.tokens)));
  };
  out.progress = [this](const TrainProgress& now) {
    const double speed = now.seconds > 0 ? double(now.tokens) / now.seconds : 0;
    std::string remark = format("loss %.3f  %.0f tokens/s", now.loss, speed);
    if (peak_memory_) remark += "  " + memory(peak_memory_);
    bar("training", uint64_t(now.iteration), uint64_t(now.iterations), remark, now.eta_s);
    return !interrupt::requested();
  };
  out.report = [this](const TrainReport& report) {
    peak_memory_ = report.peak_memory;
    line(
        format("Iter %d: Train loss %.3f, Learning Rate %.3e, It/sec %.3f, Tokens/sec %.1f, Trained Tokens %lld, "
               "Gradient norm %.3g, Peak mem %s",
               report.iteration, report.train_loss, report.learning_rate, report.iterations_per_second,
               report.tokens_per_second, count(report.trained_tokens), report.gradient_norm,
               memory(report.peak_memory).c_str()));
  };
  out.validating = [this](int64_t done, int64_t total) {
    bar("validating", uint64_t(done), uint64_t(total), {});
    return !interrupt::requested();
  };
  out.validated = [this](const ValidationReport& report) {
    line(format("Iter %d: Val loss %.3f, Val took %.1f s%s", report.iteration, report.loss, report.seconds,
                report.best ? " (best)" : ""));
  };
  out.sampled = [this](const TrainSample& sample) {
    line(format("Iter %d: ", sample.iteration) + one_line(sample.prompt) + " -> " + one_line(sample.text));
  };
  out.saved = [this](const TrainSaved& saved) {
    if (common_.verbose) note(format("iteration %d: saved ", saved.iteration) + saved.path.string());
  };
  out.note = [this](const std::string& text) { note(text); };
  return out;
}

void TrainOutput::result(const TrainResult& result, const TrainRecord& record) {
  bar_.reset();
  if (common_.json) {
    print_json({{"end", to_string(result.end)},
                {"iterations", result.iterations},
                {"updates", result.updates},
                {"trained_tokens", result.trained_tokens},
                {"train_loss", result.train_loss},
                {"val_loss", optional(result.val_loss)},
                {"best_val_loss", optional(result.best_val_loss)},
                {"best_iteration", result.best_iteration},
                {"test_loss", optional(result.test_loss)},
                {"adapter", result.adapter.string()},
                {"best", result.best.string()},
                {"adapter_id", result.adapter_id},
                {"base_hash", result.base_hash},
                {"seconds", result.seconds},
                {"metrics", record.metrics_path().string()},
                {"report", record.report_path().string()}});
    return;
  }
  if (result.test_loss) test(*result.test_loss);
  line(std::string(to_string(result.end)) + " after " + std::to_string(result.iterations) + " iterations, " +
       duration(result.seconds));
  line("adapter    " + one_line(result.adapter.string()));
  if (result.best_val_loss && !result.best.empty()) {
    line(format("best       %s (iteration %d, validation loss %.3f)", one_line(result.best.string()).c_str(),
                result.best_iteration, *result.best_val_loss));
  }
  line("report     " + one_line(record.report_path().string()));
}

void TrainOutput::test(double loss) { line(format("Test loss %.3f, Test ppl %.3f.", loss, std::exp(loss))); }

void TrainOutput::plan(const TrainPlan& plan) {
  bar_.reset();
  if (common_.json) {
    print_json({{"trainable_parameters", plan.trainable_parameters},
                {"parameters", plan.parameters},
                {"modules", plan.modules},
                {"layers", plan.layers},
                {"rows", plan.rows},
                {"valid_rows", plan.valid_rows},
                {"test_rows", plan.test_rows},
                {"truncated_rows", plan.truncated_rows},
                {"tokens_per_epoch", plan.tokens},
                {"batches_per_epoch", plan.batches},
                {"longest_row", plan.longest_row},
                {"memory_bytes", plan.memory_bytes},
                {"seconds", plan.seconds}});
    return;
  }
  callbacks().started(plan);
  line(format("longest    %d tokens", plan.longest_row));
  line("memory     " + memory(plan.memory_bytes) + " at most, beside the loaded model");
  line("time       " + (plan.seconds > 0 ? duration(plan.seconds) : "not measured"));
}

}  // namespace bumblebee::cli
