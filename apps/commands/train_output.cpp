// Formats numbers the way mlx_lm.lora's users read them.
#include "commands/train_output.h"

#include <fmt/core.h>

#include <cmath>
#include <cstdio>

#include "ui/interrupt.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

std::string memory(uint64_t bytes) { return bytes ? human_bytes(double(bytes)) : "not measured"; }

std::string duration(double seconds) {
  if (seconds < 100) return fmt::format("{:.1f} s", seconds);
  if (seconds < 6000) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

const char* end_text(TrainEnd end) {
  switch (end) {
    case TrainEnd::early_stopped: return "stopped early, because validation no longer got better,";
    case TrainEnd::cancelled: return "stopped";
    case TrainEnd::finished: break;
  }
  return "finished";
}

OutJson optional(const std::optional<double>& value) { return value ? OutJson(*value) : OutJson(nullptr); }

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
    line(fmt::format("training   {} of {} parameters ({:.3f} %), {} modules in {} layers",
                     human_count(double(plan.trainable_parameters)), human_count(double(plan.parameters)),
                     100 * double(plan.trainable_parameters) / double(std::max<uint64_t>(plan.parameters, 1)),
                     plan.modules, plan.layers));
    line(fmt::format("data       {} rows to learn, {} to validate, {} cut; all of them once: {} {}, {} tokens",
                     plan.rows, plan.valid_rows, plan.truncated_rows, plan.batches,
                     plan.batches == 1 ? "batch" : "batches", plan.tokens));
    line(fmt::format("iterations {}, {:.3g} times over these rows", plan.iterations,
                     double(plan.iterations) / double(std::max<int64_t>(plan.batches, 1))));
    for (const std::string& adapter : plan.on_top_of) line("on top of  " + one_line(adapter));
    line("memory     " + memory(plan.memory_bytes) + " at most, beside the loaded model");
    if (plan.seconds > 0) line("time       about " + duration(plan.seconds) + "; samples come on top");
  };
  out.progress = [this](const TrainProgress& now) {
    const double speed = now.seconds > 0 ? double(now.tokens) / now.seconds : 0;
    std::string remark = fmt::format("loss {:.3f}  {:.0f} tokens/s", now.loss, speed);
    if (peak_memory_) remark += "  " + memory(peak_memory_);
    bar("training", uint64_t(now.iteration), uint64_t(now.iterations), remark, now.eta_s);
    return !interrupt::requested();
  };
  out.report = [this](const TrainReport& report) {
    peak_memory_ = report.peak_memory;
    line(fmt::format(
        "Iter {}: Train loss {:.3f}, Learning Rate {:.3e}, It/sec {:.3f}, Tokens/sec {:.1f}, Trained Tokens {}, "
        "Gradient norm {:.3g}, Peak mem {}",
        report.iteration, report.train_loss, report.learning_rate, report.iterations_per_second,
        report.tokens_per_second, report.trained_tokens, report.gradient_norm, memory(report.peak_memory)));
  };
  out.validating = [this](int64_t done, int64_t total) {
    bar("validating", uint64_t(done), uint64_t(total), {});
    return !interrupt::requested();
  };
  out.comparing = [this](int64_t done, int64_t total) {
    bar("comparing", uint64_t(done), uint64_t(total), {});
    return !interrupt::requested();
  };
  out.validated = [this](const ValidationReport& report) {
    line(fmt::format("Iter {}: Val loss {:.3f}, Val took {:.1f} s{}", report.iteration, report.loss, report.seconds,
                     report.best ? " (best)" : ""));
  };
  out.sampled = [this](const TrainSample& sample) {
    line(fmt::format("Iter {}: {} -> {}", sample.iteration, one_line(sample.prompt), one_line(sample.text)));
  };
  out.saved = [this](const TrainSaved& saved) {
    if (common_.verbose) note(fmt::format("iteration {}: saved {}", saved.iteration, saved.path.string()));
  };
  out.note = [this](const std::string& text) { note(text); };
  return out;
}

namespace {

std::string copied(const CopiedText& c) {
  if (c.words == 0) return "no word of it was learned";
  return fmt::format("{} of its {} words in a row ({} characters, {} tokens) are as in {}", c.words, c.of_words,
                     c.characters, c.tokens, one_line(c.where));
}

OutJson json_of(const CopiedText& c) {
  return {{"text", c.text},     {"words", c.words},       {"characters", c.characters},
          {"tokens", c.tokens}, {"of_words", c.of_words}, {"where", c.where}};
}

OutJson json_of(const std::vector<TrainComparison>& list) {
  OutJson out = OutJson::array();
  for (const TrainComparison& one : list)
    out.push_back({{"prompt", one.prompt},
                   {"without", one.without},
                   {"with", one.with},
                   {"copied_without", json_of(one.copied_without)},
                   {"copied_with", json_of(one.copied_with)}});
  return out;
}

}  // namespace

void TrainOutput::comparisons(const TrainResult& result) {
  const CopiedText* most = nullptr;
  for (const TrainComparison& one : result.comparisons) {
    line("\n" + one_line(one.prompt));
    line("  without  " + one_line(one.without));
    line("  with     " + one_line(one.with));
    if (most == nullptr || one.copied_with.words > most->words) most = &one.copied_with;
  }
  if (most == nullptr) return;
  line("\nby heart   at most: " + copied(*most));
  if (result.held_out.words > 0)
    line(fmt::format("           texts that it never saw share up to {} words in a row with those it learned",
                     result.held_out.words));
}

void TrainOutput::result(const TrainResult& result, const TrainRecord& record, bool from_nothing) {
  bar_.reset();
  if (common_.json) {
    print_json({{"end", to_string(result.end)},
                {"iterations", result.iterations},
                {"updates", result.updates},
                {"trained_tokens", result.trained_tokens},
                {"train_loss", result.train_loss},
                {"first_val_loss", optional(result.first_val_loss)},
                {"val_loss", optional(result.val_loss)},
                {"best_val_loss", optional(result.best_val_loss)},
                {"best_iteration", result.best_iteration},
                {"first_test_loss", optional(result.first_test_loss)},
                {"test_loss", optional(result.test_loss)},
                {"verdict", result.verdict},
                {"comparisons", json_of(result.comparisons)},
                {"held_out_copied", json_of(result.held_out)},
                {"adapter", result.adapter.string()},
                {"best", result.best.string()},
                {"adapter_id", result.adapter_id},
                {"base_hash", result.base_hash},
                {"seconds", result.seconds},
                {"metrics", record.metrics_path().string()},
                {"report", record.report_path().string()}});
    return;
  }
  if (result.first_test_loss) {
    line(fmt::format("Test ppl {:.3f} {}.", std::exp(*result.first_test_loss),
                     from_nothing ? "without the adapter" : "as the adapter began"));
  }
  if (result.test_loss) test(*result.test_loss);
  comparisons(result);
  line(fmt::format("\n{} after {} {}, {}", end_text(result.end), result.iterations,
                   result.iterations == 1 ? "iteration" : "iterations", duration(result.seconds)));
  line("adapter    " + one_line(result.adapter.string()));
  if (result.best_val_loss && !result.best.empty()) {
    line(fmt::format("best       {} (iteration {}, validation loss {:.3f})", one_line(result.best.string()),
                     result.best_iteration, *result.best_val_loss));
  }
  line("report     " + one_line(record.report_path().string()));
  if (result.first_val_loss && result.best_val_loss) {
    const bool gained = result.best_iteration > 0;
    line(fmt::format("perplexity {:.2f} {}, {:.2f} with it{}, of texts that it did not learn",
                     std::exp(*result.first_val_loss), from_nothing ? "without the adapter" : "as the adapter began",
                     std::exp(gained ? *result.best_val_loss : *result.val_loss), gained ? " at its best" : ""));
  }
  if (!result.verdict.empty()) line(one_line(result.verdict));
}

void TrainOutput::test(double loss) { line(fmt::format("Test loss {:.3f}, Test ppl {:.3f}.", loss, std::exp(loss))); }

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
                {"on_top_of", plan.on_top_of},
                {"memory_bytes", plan.memory_bytes},
                {"seconds", plan.seconds}});
    return;
  }
  callbacks().started(plan);
  line(fmt::format("longest    {} tokens", plan.longest_row));
}

}  // namespace bumblebee::cli
