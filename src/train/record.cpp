// Turns callbacks into lines, and lines into the page.
#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>
#include <ctime>
#include <utility>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "bumblebee/train_record.h"
#include "train/report_html.h"

namespace bumblebee {

namespace fs = std::filesystem;

namespace {

std::string now() {
  const std::time_t seconds = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

/// JSON has no NaN: what is not finite becomes null.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json copied(const CopiedText& c) {
  return {{"text", c.text},     {"words", c.words},       {"characters", c.characters},
          {"tokens", c.tokens}, {"of_words", c.of_words}, {"where", c.where}};
}

std::string dump(const Json& line) { return line.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace

const char* to_string(TrainEnd end) {
  switch (end) {
    case TrainEnd::finished: return "finished";
    case TrainEnd::early_stopped: return "early_stopped";
    case TrainEnd::cancelled: return "cancelled";
  }
  return "unknown";
}

struct TrainRecord::State {
  fs::path directory;
  Options options;
  std::vector<Json> lines;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file{nullptr, std::fclose};

  fs::path metrics() const { return directory / "metrics.jsonl"; }
  fs::path report() const { return directory / "report.html"; }

  /// The lines of an earlier run that stay true when iteration `next` comes next. A line that a crash cut is left out.
  void keep_earlier(int next) {
    if (!options.resume || !fs::exists(metrics())) return;
    const std::shared_ptr<const MappedFile> old = MappedFile::open(metrics());
    std::string_view rest(reinterpret_cast<const char*>(old->bytes().data()), old->bytes().size());
    while (!rest.empty()) {
      const size_t end = rest.find('\n');
      if (end == std::string_view::npos) break;
      Json line = Json::parse(rest.substr(0, end), nullptr, false);
      rest.remove_prefix(end + 1);
      if (!line.is_object() || line.value("type", "") == "end" || line.value("type", "") == "comparison") continue;
      const auto iteration = line.find("iteration");
      const bool later = iteration != line.end() && iteration->is_number() && iteration->get<double>() >= next;
      if (!later) lines.push_back(std::move(line));
    }
  }

  void begin(const TrainPlan& plan) {
    std::error_code failure;
    fs::create_directories(directory, failure);
    if (failure) throw Error(ErrorCode::bad_file, directory.string(), cat("cannot create: ", failure.message()));
    const std::vector<Json> before = std::exchange(lines, {});  // notes, from reading the data
    keep_earlier(plan.first_iteration);
    std::string text;
    for (const Json& line : lines) text += dump(line) + "\n";
    write_text_file(metrics(), text);
    if (!options.resume) fs::remove(report(), failure);  // an earlier run's
    file.reset(std::fopen(metrics().c_str(), "ab"));
    if (!file) throw Error(ErrorCode::bad_file, metrics().string(), "cannot be opened for writing");
    add({{"type", "start"},
         {"first_iteration", plan.first_iteration},
         {"iterations", plan.iterations},
         {"trainable_parameters", plan.trainable_parameters},
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
         {"estimated_memory_bytes", plan.memory_bytes},
         {"estimated_seconds", plan.seconds}});
    for (const Json& line : before) add(line);
  }

  void add(Json line) {
    line["time"] = now();
    const std::string text = dump(line) + "\n";
    if (file && (std::fwrite(text.data(), 1, text.size(), file.get()) != text.size() || std::fflush(file.get()) != 0))
      throw Error(ErrorCode::bad_file, metrics().string(), "cannot be written");
    lines.push_back(std::move(line));
  }

  void write_report() const { write_text_file(report(), train::report_html({options.title, options.facts, lines})); }
};

TrainRecord::TrainRecord(fs::path directory, Options options) : state_(std::make_shared<State>()) {
  state_->directory = std::move(directory);
  state_->options = std::move(options);
}

fs::path TrainRecord::metrics_path() const { return state_->metrics(); }
fs::path TrainRecord::report_path() const { return state_->report(); }

TrainCallbacks TrainRecord::callbacks(TrainCallbacks inner) const {
  TrainCallbacks out = inner;
  out.started = [state = state_, then = inner.started](const TrainPlan& plan) {
    state->begin(plan);
    if (then) then(plan);
  };
  out.report = [state = state_, then = inner.report](const TrainReport& report) {
    state->add({{"type", "train"},
                {"iteration", report.iteration},
                {"loss", number(report.train_loss)},
                {"learning_rate", number(report.learning_rate)},
                {"gradient_norm", number(report.gradient_norm)},
                {"iterations_per_second", number(report.iterations_per_second)},
                {"tokens_per_second", number(report.tokens_per_second)},
                {"trained_tokens", report.trained_tokens},
                {"peak_memory", report.peak_memory}});
    if (then) then(report);
  };
  out.validated = [state = state_, then = inner.validated](const ValidationReport& report) {
    state->add({{"type", "validation"},
                {"iteration", report.iteration},
                {"loss", number(report.loss)},
                {"tokens", report.tokens},
                {"seconds", number(report.seconds)},
                {"best", report.best}});
    state->write_report();
    if (then) then(report);
  };
  out.sampled = [state = state_, then = inner.sampled](const TrainSample& sample) {
    state->add({{"type", "sample"}, {"iteration", sample.iteration}, {"prompt", sample.prompt}, {"text", sample.text}});
    if (then) then(sample);
  };
  out.saved = [state = state_, then = inner.saved](const TrainSaved& saved) {
    const char* what = saved.what == TrainSaved::What::adapter ? "adapter"
                       : saved.what == TrainSaved::What::best  ? "best"
                                                               : "checkpoint";
    state->add({{"type", "saved"}, {"iteration", saved.iteration}, {"what", what}, {"path", saved.path.string()}});
    if (then) then(saved);
  };
  out.note = [state = state_, then = inner.note](const std::string& text) {
    state->add({{"type", "note"}, {"text", text}});
    if (then) then(text);
  };
  return out;
}

void TrainRecord::write_report() const {
  if (state_->file) state_->write_report();
}

void TrainRecord::finish(const TrainResult& result) const {
  for (const TrainComparison& one : result.comparisons) {
    state_->add({{"type", "comparison"},
                 {"prompt", one.prompt},
                 {"without", one.without},
                 {"with", one.with},
                 {"copied_without", copied(one.copied_without)},
                 {"copied_with", copied(one.copied_with)}});
  }
  Json line = {{"type", "end"},
               {"end", to_string(result.end)},
               {"iterations", result.iterations},
               {"updates", result.updates},
               {"trained_tokens", result.trained_tokens},
               {"train_loss", number(result.train_loss)},
               {"best_iteration", result.best_iteration},
               {"verdict", result.verdict},
               {"held_out_copied", copied(result.held_out)},
               {"adapter_id", result.adapter_id},
               {"base_hash", result.base_hash},
               {"seconds", number(result.seconds)}};
  const auto optional = [&line](const char* key, const std::optional<double>& value) {
    if (value) line[key] = number(*value);
  };
  optional("first_val_loss", result.first_val_loss);
  optional("val_loss", result.val_loss);
  optional("best_val_loss", result.best_val_loss);
  optional("first_test_loss", result.first_test_loss);
  optional("test_loss", result.test_loss);
  state_->add(std::move(line));
  state_->write_report();
}

}  // namespace bumblebee
