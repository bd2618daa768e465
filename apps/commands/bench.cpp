// `bench`: how fast a model is here. Flags, names of tests and the table follow llama-bench, so that figures can stand
// side by side; docs/inspect.md defines every field.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <optional>
#include <utility>

#include "bumblebee/bumblebee.h"
#include "commands/commands.h"
#include "options/adapter_flags.h"
#include "options/model_flags.h"
#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/interrupt.h"
#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct BenchFlags {
  CommonFlags common;
  ModelFlags model;
  AdapterFlags adapters;
  int adapter_rank = 0;
  std::vector<std::string> adapter_count;
  std::vector<std::string> n_prompt = {"512"}, n_gen = {"128"}, n_depth = {"0"}, threads = {"0"}, rows = {"1"};
  int repetitions = 5;
  std::string format = "md";
  bool load = false, no_warmup = false, no_bandwidth = false;
  const Option *json_option = nullptr, *format_option = nullptr;
};

std::string format_of(const BenchFlags& flags) {
  if (flags.common.json && flags.format == "json") return "json";
  const Option* chosen = exclusive({flags.json_option, flags.format_option});
  return chosen != nullptr && chosen == flags.json_option && flags.common.json ? "json" : flags.format;
}

/// How many adapters the rows of a test use, in turns; beside the base when nothing else is asked.
std::vector<int> adapter_counts(const BenchFlags& flags) {
  if (!flags.adapter_count.empty()) return integers_of(flags.adapter_count);
  if (!flags.adapters.adapters.empty()) return {0, int(flags.adapters.adapters.size())};
  return flags.adapter_rank > 0 ? std::vector<int>{0, 1} : std::vector<int>{0};
}

/// Every combination, without the prompts and generations of no tokens that switch a kind of test off.
std::vector<BenchmarkTest> tests_of(const BenchFlags& flags) {
  const std::vector<int> counts = adapter_counts(flags);
  std::vector<BenchmarkTest> tests;
  for (int depth : integers_of(flags.n_depth)) {
    for (int tokens : integers_of(flags.n_prompt)) {
      if (tokens == 0) continue;
      bool base = false, adapted = false;  // a prompt is one row, which uses one adapter at most
      for (int adapters : counts) {
        bool& had = adapters == 0 ? base : adapted;
        if (std::exchange(had, true)) continue;
        tests.push_back(
            {.n_prompt = tokens, .n_gen = 0, .n_depth = depth, .rows = 1, .adapters = std::min(adapters, 1)});
      }
    }
    for (int tokens : integers_of(flags.n_gen)) {
      if (tokens == 0) continue;
      for (int rows : integers_of(flags.rows)) {
        for (int adapters : counts)
          tests.push_back({.n_prompt = 0, .n_gen = tokens, .n_depth = depth, .rows = rows, .adapters = adapters});
      }
    }
  }
  return tests;
}

/// The last part of a directory's path, or the id of a repository: figures are passed on, and the path is private.
std::string short_name(const std::string& model) {
  std::error_code failure;
  const auto path = std::filesystem::weakly_canonical(repository(model).name(), failure);
  if (failure || !std::filesystem::is_directory(path, failure)) return model;
  return path.has_filename() ? path.filename().string() : path.string();
}

std::string now_utc() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  char text[32];
  ::gmtime_r(&now, &parts);
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string build() { return std::string(version()) + (*commit() == '\0' ? "" : std::string(" (") + commit() + ")"); }

/// What a row says beside its figures.
struct Setting {
  std::string model, backend, instruction_set, precision, kv_type, cpu;
  ModelInfo info;
  int threads = 0;
};

/// The device "auto" is what it comes to for this model.
Setting setting_of(const BenchFlags& flags, const ModelInfo& info, int threads, const std::string& device_name) {
  Setting out{.model = short_name(flags.model.model),
              .backend = device_name,
              .instruction_set = "",
              .precision = flags.model.precision,
              .kv_type = flags.model.kv_type_used(),
              .cpu = "",
              .info = info,
              .threads = threads};
  for (const DeviceInfo& device : devices()) {
    if (device.name == "cpu") out.cpu = device.description;
    if (device.name != device_name) continue;
    out.instruction_set = device.kernels;
    if (threads == 0) out.threads = device.threads;
  }
  return out;
}

OutJson row_of(const Setting& setting, const BenchmarkTest& test, const std::string& name) {
  return {{"model", setting.model},
          {"architecture", setting.info.architecture},
          {"parameters", setting.info.parameters},
          {"model_bytes", setting.info.weight_bytes},
          {"backend", setting.backend},
          {"instruction_set", setting.instruction_set},
          {"precision", setting.precision},
          {"kv_type", setting.kv_type},
          {"threads", setting.threads},
          {"rows", test.rows},
          {"n_prompt", test.n_prompt},
          {"n_gen", test.n_gen},
          {"n_depth", test.n_depth},
          {"adapters", test.adapters},
          {"test", name},
          {"avg_ts", nullptr},
          {"stddev_ts", nullptr},
          {"median_ts", nullptr},
          {"samples_ts", OutJson::array()},
          {"weight_bytes", nullptr},
          {"adapter_bytes", nullptr},
          {"kv_bytes", nullptr},
          {"read_bandwidth", nullptr},
          {"bandwidth_share", nullptr},
          {"load_s", nullptr},
          {"first_token_s", nullptr},
          {"build", build()},
          {"cpu", setting.cpu},
          {"date", now_utc()}};
}

OutJson row_of(const Setting& setting, const BenchmarkResult& result) {
  OutJson row = row_of(setting, result.test, result.test.name());
  row["avg_ts"] = result.avg_ts;
  row["stddev_ts"] = result.stddev_ts;
  row["median_ts"] = result.median_ts;
  row["samples_ts"] = result.samples_ts;
  row["weight_bytes"] = result.weight_bytes;
  row["adapter_bytes"] = result.adapter_bytes;
  if (result.test.n_gen > 0) row["kv_bytes"] = result.kv_bytes;
  if (result.read_bandwidth > 0) row["read_bandwidth"] = result.read_bandwidth;
  if (result.bandwidth_share > 0) row["bandwidth_share"] = result.bandwidth_share;
  return row;
}

OutJson row_of(const Setting& setting, const LoadBenchmark& loading) {
  OutJson row = row_of(setting, {}, "load");
  row["weight_bytes"] = loading.weight_bytes;
  if (loading.read_bandwidth > 0) row["read_bandwidth"] = loading.read_bandwidth;
  row["load_s"] = loading.median_load_s;
  row["first_token_s"] = loading.median_first_token_s;
  return row;
}

/// Prints rows as they come, JSON at the end.
class Report {
 public:
  Report(std::string format, const BenchFlags& flags) : format_(std::move(format)), flags_(flags) {}

  void add(const OutJson& row) {
    if (format_ == "csv") add_csv(row);
    if (format_ == "md") add_markdown(row);
    rows_.push_back(row);
  }

  void finish() {
    if (format_ == "json") print_json(rows_);
    if (format_ == "md") write_out("\nbuild: " + build() + "\n");
  }

 private:
  struct Column {
    const char* title;
    int width;  // negative: to the left
    std::string value;
  };

  static std::string csv_field(const OutJson& value) {
    std::string text;
    if (value.is_array()) {
      for (const OutJson& one : value.elements()) text += (text.empty() ? "" : " ") + one.dump();
    } else if (value.is_string()) {
      text = value.text();
    } else if (!value.is_null()) {
      text = value.dump();
    }
    std::string quoted = "\"";
    for (char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
    return quoted + "\"";
  }

  void add_csv(const OutJson& row) {
    std::string head, line;
    for (const auto& [key, value] : row.items()) {
      head += (head.empty() ? "" : ",") + key;
      line += (line.empty() ? "" : ",") + csv_field(value);
    }
    write_out((rows_.empty() ? head + "\n" : "") + line + "\n");
  }

  std::vector<Column> columns(const OutJson& row) const {
    const bool loading = row.at("test").text() == "load";
    const std::string speed =
        loading ? fmt::format("load {:.3f} s, first token {:.3f} s", row.at("load_s").number(),
                              row.at("first_token_s").number())
                : fmt::format("{:.2f} ± {:.2f}", row.at("avg_ts").number(), row.at("stddev_ts").number());
    const OutJson share = row.at("bandwidth_share");
    std::vector<Column> out = {{"model", -30, row.at("model").text()},
                               {"size", 10, human_bytes(row.at("model_bytes").number())},
                               {"params", 10, human_count(row.at("parameters").number())},
                               {"backend", -18, row.at("backend").text() + " " + row.at("instruction_set").text()},
                               {"threads", 7, row.at("threads").dump()}};
    if (flags_.model.precision != "fast") out.push_back({"precision", -9, row.at("precision").text()});
    if (flags_.model.kv_type != "auto") out.push_back({"kv type", -7, row.at("kv_type").text()});
    if (integers_of(flags_.rows) != std::vector<int>{1}) out.push_back({"rows", 5, row.at("rows").dump()});
    out.push_back({"test", 15, row.at("test").text()});
    out.push_back({"t/s", 18, speed});
    out.push_back({"% of read", 9, share.is_null() ? "" : fmt::format("{:.1f}", 100 * share.number())});
    return out;
  }

  static std::string padded(const std::string& text, int width) {
    return width < 0 ? fmt::format("{:<{}}", text, -width) : fmt::format("{:>{}}", text, width);
  }

  void add_markdown(const OutJson& row) {
    std::string head = "|", rule = "|", line = "|";
    for (const Column& column : columns(row)) {
      head += " " + padded(column.title, column.width) + " |";
      rule += " " + std::string(size_t(std::abs(column.width)) - 1, '-') + (column.width > 0 ? ":" : "-") + " |";
      line += " " + padded(column.value, column.width) + " |";
    }
    write_out((rows_.empty() ? head + "\n" + rule + "\n" : "") + line + "\n");
  }

  std::string format_;
  const BenchFlags& flags_;
  OutJson rows_ = OutJson::array();
};

void measure(const BenchFlags& flags, int threads, const std::vector<BenchmarkTest>& tests, Report& report) {
  ModelFlags chosen = flags.model;
  chosen.threads = threads;
  if (flags.load) {
    ModelOptions options = chosen.options();
    options.progress = [](uint64_t, uint64_t) { return !interrupt::requested(); };
    const LoadBenchmark loading =
        benchmark_load(source(chosen.model, flags.common), options,
                       {.repetitions = flags.repetitions, .measure_bandwidth = !flags.no_bandwidth});
    report.add(row_of(setting_of(flags, loading.info, threads, loading.device), loading));
  }
  if (tests.empty()) return;

  std::vector<WeightedAdapter> adapters = load_adapters(flags.adapters, flags.common);
  const LoadedModel loaded = load(chosen, flags.common);
  const Setting setting = setting_of(flags, loaded.model.info(), threads, loaded.model.options().device);
  ProgressBar bar("bench", ProgressBar::Unit::items, flags.common.progress());
  BenchmarkOptions options;
  options.tests = tests;
  options.repetitions = flags.repetitions;
  options.warmup = !flags.no_warmup;
  options.measure_bandwidth = !flags.no_bandwidth;
  for (WeightedAdapter& one : adapters) options.adapters.push_back(std::move(one.adapter));
  if (flags.adapter_rank > 0) {
    const std::vector<int> counts = adapter_counts(flags);
    for (int i = 0; i < *std::max_element(counts.begin(), counts.end()); ++i)
      options.adapters.push_back(random_adapter(loaded.model, flags.adapter_rank, uint64_t(i) + 1));
  }
  options.progress = [&bar](uint64_t done, uint64_t total) {
    bar.update(done, total);
    return !interrupt::requested();
  };
  options.each = [&](const BenchmarkResult& result) {
    bar.clear();
    report.add(row_of(setting, result));
  };
  benchmark(loaded.model, options);
}

int run(const BenchFlags& flags) {
  const std::string format = format_of(flags);
  const std::vector<BenchmarkTest> tests = tests_of(flags);
  if (tests.empty() && !flags.load)
    throw UsageError("nothing to measure: expected -p or -n above 0, or --load, got neither");
  source(flags.model.model, flags.common);  // a missing model is refused before anything is measured
  Report report(format, flags);
  for (int threads : integers_of(flags.threads)) measure(flags, threads, tests, report);
  report.finish();
  return int(ExitCode::ok);
}

struct List {
  const char* names;
  const char* description;
  int low, high;
};

Option* add_list(Parser& verb, std::vector<std::string>& values, const List& list) {
  return verb.add_option(list.names, values, list.description)
      ->allow_extra_args(false)
      ->option_text("N,...")
      ->check(integers_between(list.low, list.high));
}

}  // namespace

void add_bench(Parser& app, Session& session) {
  auto flags = std::make_shared<BenchFlags>();
  Parser* verb = add_verb(app, {"bench", "Measure how fast a model is here"});
  add_loading_flags(*verb, flags->model);
  add_adapter_flags(*verb, flags->adapters);
  constexpr int kMost = 1 << 30;
  add_list(*verb, flags->threads, {"-t,--threads", "Threads (default 0: one per core)", 0, 1024})->group("Model");
  add_list(*verb, flags->n_prompt, {"-p,--n-prompt", "Tokens of the prompt; 0: no such test (default 512)", 0, kMost})
      ->group("Tests");
  add_list(*verb, flags->n_gen, {"-n,--n-gen", "Tokens to generate; 0: no such test (default 128)", 0, kMost})
      ->group("Tests");
  add_list(*verb, flags->n_depth, {"-d,--n-depth", "Tokens in the cache before a test (default 0)", 0, kMost})
      ->group("Tests");
  add_list(*verb, flags->rows, {"--rows", "Sequences that generate together (default 1)", 1, 1024})->group("Tests");
  Option* rank = verb->add_option("--adapter-rank", flags->adapter_rank,
                                  "Adapters of random numbers of this rank, for every linear layer but the head")
                     ->option_text("N")
                     ->check(integer_between(1, 4096))
                     ->excludes(verb->get_option("--adapter"))
                     ->group("Tests");
  add_list(
      *verb, flags->adapter_count,
      {"--adapter-count", "Adapters that the rows of a test use in turns; 0: the base (default 0 and all)", 0, 1024})
      ->needs({verb->get_option("--adapter"), rank})
      ->group("Tests");
  verb->add_option("-r,--repetitions", flags->repetitions, "Times that each test is run (default 5)")
      ->option_text("N")
      ->check(integer_between(1, 100000))
      ->group("Tests");
  verb->add_flag("--load", flags->load, "Also measure loading, up to the first token after a prompt of one token")
      ->group("Tests");
  verb->add_flag("--no-warmup", flags->no_warmup, "Do not run each test once before it counts")->group("Tests");
  verb->add_flag("--no-bandwidth", flags->no_bandwidth, "Do not measure the memory bandwidth between the tests")
      ->group("Tests");
  flags->format_option = verb->add_option("-o,--output-format", flags->format, "md, json or csv (default md)")
                             ->option_text("FORMAT")
                             ->check(one_of({"md", "json", "csv"}))
                             ->group("Output");
  verb->footer(
      "-p, -n, -d, -t and --rows take lists such as 1,4,16; every combination is a test. pp512 computes a prompt of "
      "512\n"
      "tokens, tg128 generates 128, '@ d8192' starts with 8192 tokens in the cache. t/s is the mean and its standard\n"
      "deviation, of all rows together; '% of read' is what a step reads (weights once, keys and values of every row)\n"
      "per second as a share of the memory bandwidth measured in the same run. Tokens are random; no tokenizer is "
      "needed.\n\n"
      "Example:\n  bumblebee bench -m DIR -p 512 -n 128 -d 0,8192 -o json");
  on_chosen(*verb, session, flags, run);
  flags->json_option = verb->get_option("--json");
}

}  // namespace bumblebee::cli
