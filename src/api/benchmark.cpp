// Runs steps on an executor as the engine's loop does, without its queue: what is timed is a step and the choice of the
// next token.
#include "bumblebee/benchmark.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "api/adapter_state.h"
#include "api/counting_pass.h"
#include "api/model_state.h"
#include "backend/registry.h"
#include "base/error.h"
#include "base/rng.h"
#include "bumblebee/device.h"

namespace bumblebee {
namespace {

using api::ModelState;
using Clock = std::chrono::steady_clock;

using exec::kPageSize;
constexpr int kMaxRows = 1024, kMaxPages = 1 << 24, kMaxRepetitions = 100000;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
}

/// Of a sample, so with n - 1; 0 for a single value.
double standard_deviation(const std::vector<double>& values) {
  if (values.size() < 2) return 0;
  const double centre = mean(values);
  double sum = 0;
  for (double value : values) sum += (value - centre) * (value - centre);
  return std::sqrt(sum / double(values.size() - 1));
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

/// Sequences that lie side by side in one cache. The first one's prompt is kept from test to test.
class Bench {
 public:
  Bench(ModelState& state, int rows, int length, int chunk, uint64_t seed, const std::vector<Adapter>& adapters = {})
      : state_(state),
        pages_each_((length + kPageSize - 1) / kPageSize),
        rows_(rows),
        chunk_(chunk),
        seed_(seed),
        executor_(state.make_executor({.sequences = rows,
                                       .sequence_length = pages_each_ * kPageSize,
                                       .dtype = {},
                                       .bytes = std::numeric_limits<uint64_t>::max()})) {
    for (const Adapter& adapter : adapters) {
      const WeightedAdapter whole(adapter);
      sets_.push_back(state_.open({&whole, 1}));
      slots_.push_back(executor_->slot(sets_.back()));
    }
  }

  /// One decoding step that finds out what a step reads. Overwrites position 0.
  Reads reads() {
    Reads found;
    Batch batch;
    batch.append(std::vector<int32_t>{token_at(0)}, 0, pages_of(0), Batch::Want::last, -1, states_of(0, 0));
    executor_->eagerly(batch, [&](Stream& stream, KvStore* kv) {
      CountingPass pass(stream.ops(), *kv, found);
      state_.model().forward(pass);
    });
    valid_ = 0;
    return found;
  }

  /// Rows use the first `count` adapters in turns from now on; 0: the base.
  void use_adapters(int count) { adapters_ = count; }
  /// Of those that `rows` rows use.
  uint64_t adapter_bytes(int rows) const {
    uint64_t bytes = 0;
    for (int i = 0; i < std::min(rows, adapters_); ++i) {
      for (const auto& adapter : sets_[size_t(i)]->adapters) bytes += adapter->bytes();
    }
    return bytes;
  }

  /// How many tokens reach(depth) would compute.
  int missing(int depth) const { return std::max(depth - valid_, 0); }

  /// Makes the first `depth` positions of the first `rows` sequences those of the prompt. `step(tokens)` after each
  /// chunk.
  template <class Step>
  void reach(int depth, int rows, const Step& step) {
    if (depth > valid_) prefill(valid_, depth, step);
    for (int row = 1; row < rows; ++row) {
      if (executor_->states() > 0) begin(row);
      for (int page = 0; page * kPageSize < depth; ++page) copies_.push_back({page, row * pages_each_ + page});
    }
    valid_ = depth;  // what follows is about to be overwritten
  }

  /// Gives a sequence a state.
  void begin(int row) {
    Batch batch;
    batch.append(std::vector<int32_t>{token_at(0)}, 0, pages_of(row), Batch::Want::last, -1, states_of(row, 0));
    compute(std::move(batch));
  }

  /// Computes positions [first, last) of the prompt in chunks; only the last chunk wants logits. Returns the choice
  /// after them.
  template <class Step>
  int32_t prefill(int first, int last, const Step& step) {
    int32_t chosen = 0;
    for (int at = first; at < last; at += chunk_) {
      const int rows = std::min(chunk_, last - at);
      std::vector<int32_t> tokens;
      for (int i = 0; i < rows; ++i) tokens.push_back(token_at(at + i));
      Batch batch;
      batch.append(tokens, at, pages_of(0), at + rows == last ? Batch::Want::last : Batch::Want::none, slot_of(0),
                   states_of(0, at));
      const std::span<const int32_t> ids = compute(std::move(batch));
      if (!ids.empty()) chosen = ids.front();
      step(rows);
    }
    return chosen;
  }

  /// `steps` steps of `rows` sequences, from `depth` on; as the engine runs them, two in flight where that is of use.
  template <class Step>
  void generate(int depth, int steps, int rows, const Step& step) {
    const bool ahead = executor_->asynchronous() && executor_->states() == 0;
    std::vector<int32_t> next;
    for (int row = 0; row < rows; ++row) next.push_back(token_at(depth + row));
    exec::Ticket before = 0;
    for (int i = 0; i < steps; ++i) {
      Batch batch;
      for (int row = 0; row < rows; ++row)
        batch.append(std::span(&next[size_t(row)], 1), depth + i, pages_of(row), Batch::Want::last, slot_of(row),
                     states_of(row, depth + i));
      const exec::Ticket launched = launch(std::move(batch));
      if (ahead) {
        for (int row = 0; row < rows; ++row) next[size_t(row)] = Batch::chosen(row);
        if (i > 0) executor_->wait(before);
        before = launched;
      } else {
        const std::span<const int32_t> ids = executor_->wait(launched).ids;
        next.assign(ids.begin(), ids.end());
      }
      step(rows);
    }
    if (ahead && steps > 0) executor_->wait(before);
  }

  /// Gives the memory of all sequences but the first back.
  void release() {
    std::vector<int32_t> pages;
    for (int page = pages_each_; page < rows_ * pages_each_; ++page) pages.push_back(page);
    executor_->release_pages(pages);
  }

 private:
  int32_t token_at(int position) const {
    return int32_t(philox(seed_, uint64_t(position))[0] % uint32_t(state_.info.vocab));
  }

  int32_t slot_of(int row) const { return adapters_ == 0 ? -1 : slots_[size_t(row % adapters_)].slot(); }

  /// A sequence goes on in place. One that is set back to a depth has a state of other tokens, which is as fast.
  StateSlots states_of(int row, int past) const {
    if (executor_->states() == 0) return {};
    return {past == 0 ? -1 : row, row};
  }

  std::vector<int32_t> pages_of(int row) const {
    std::vector<int32_t> pages(size_t(pages_each_), 0);
    std::iota(pages.begin(), pages.end(), row * pages_each_);
    return pages;
  }

  /// Chooses the likeliest tokens of the logit rows.
  exec::Ticket launch(Batch batch) {
    exec::Step step{.batch = std::move(batch), .copies = std::exchange(copies_, {}), .wants = {}};
    step.batch.sample.assign(step.batch.logit_rows.size(), {.mode = SampleRow::Mode::greedy});
    return executor_->launch(step);
  }
  std::span<const int32_t> compute(Batch batch) { return executor_->wait(launch(std::move(batch))).ids; }

  ModelState& state_;
  int pages_each_, rows_, chunk_;
  uint64_t seed_;
  int valid_ = 0;  // positions of the first sequence that hold the prompt
  int adapters_ = 0;
  std::vector<std::shared_ptr<const lora::AdapterSet>> sets_;
  std::vector<exec::SlotLease> slots_;
  std::unique_ptr<exec::Executor> executor_;
  std::vector<PageCopy> copies_;  // to be done before the next step
};

int64_t length_of(const BenchmarkTest& test) { return int64_t(test.n_depth) + test.n_prompt + test.n_gen; }

void check(const ModelState& state, const BenchmarkTest& test, size_t adapters) {
  const std::string name = test.name();
  const auto require = [&name](bool ok, const char* field, int64_t value, const std::string& expected) {
    if (!ok) {
      throw Error(ErrorCode::bad_request, "benchmark",
                  cat(name, ": ", field, ": expected ", expected, ", got ", value));
    }
  };
  require(test.n_prompt >= 0, "n_prompt", test.n_prompt, "0 or more");
  require(test.n_gen >= 0, "n_gen", test.n_gen, "0 or more");
  require(test.n_depth >= 0, "n_depth", test.n_depth, "0 or more");
  require((test.n_prompt > 0) != (test.n_gen > 0), "n_prompt and n_gen", int64_t(test.n_prompt) + test.n_gen,
          "one of them positive and the other 0");
  const int most = test.n_prompt > 0 ? 1 : kMaxRows;
  require(test.rows >= 1 && test.rows <= most, "rows", test.rows, most == 1 ? "1 for a prompt" : cat("1 to ", most));
  require(test.adapters >= 0 && size_t(test.adapters) <= adapters, "adapters", test.adapters,
          cat("at most the ", adapters, " that are given"));
  require(length_of(test) <= state.info.context, "tokens", length_of(test),
          cat("at most ", state.info.context, " (the model's context)"));
}

/// Refuses what cannot fit before anything is computed.
void check(const ModelState& state, const BenchmarkOptions& options, int rows, int length) {
  const auto require = [](bool ok, const char* field, int64_t value, const std::string& expected) {
    if (!ok) throw Error(ErrorCode::bad_request, "benchmark", cat(field, ": expected ", expected, ", got ", value));
  };
  require(!options.tests.empty(), "tests", 0, "at least one");
  require(options.repetitions >= 1 && options.repetitions <= kMaxRepetitions, "repetitions", options.repetitions,
          cat("1 to ", kMaxRepetitions));
  require(options.prefill_chunk >= 0 && options.prefill_chunk <= 65536, "prefill_chunk", options.prefill_chunk,
          "0 to 65536");
  const int64_t pages = int64_t(rows) * ((int64_t(length) + kPageSize - 1) / kPageSize);
  require(pages <= kMaxPages, "rows", rows, "fewer sequences of this length");
  const uint64_t memory = options.max_kv_bytes > 0 ? options.max_kv_bytes : state.device->backend().memory().free;
  for (const BenchmarkTest& test : options.tests) {
    const uint64_t bytes = uint64_t(test.rows) *
                           (state.info.kv_bytes(int(length_of(test)), state.options.kv_type) + state.info.state_bytes);
    if (bytes > memory) {
      throw Error(ErrorCode::out_of_memory, "benchmark",
                  cat(test.name(), " with ", test.rows, " rows: keys and values: expected at most ", memory,
                      " bytes of memory, got ", bytes));
    }
  }
}

/// Of the memory that holds the weights.
double bandwidth_of(const std::string& name, int threads) {
  const Device device = require_device(name, {});
  return device.entry->bandwidth(device.index, threads);
}

/// The bandwidth before and after a test. What ends one test begins the next, unless something else came between.
class Bandwidth {
 public:
  Bandwidth(const BenchmarkOptions& options, const ModelOptions& model)
      : options_(options), device_(model.device), threads_(model.threads) {}
  double before() {
    if (last_ == 0) last_ = measured();
    return last_;
  }
  double after() { return last_ = measured(); }
  void forget() { last_ = 0; }

 private:
  double measured() const {
    if (options_.read_bandwidth > 0 || !options_.measure_bandwidth) return options_.read_bandwidth;
    return bandwidth_of(device_, threads_);
  }
  const BenchmarkOptions& options_;
  std::string device_;
  int threads_;
  double last_ = 0;
};

/// The same but for the adapters: tests that take turns.
bool take_turns(const BenchmarkTest& a, const BenchmarkTest& b) {
  return a.n_prompt == b.n_prompt && a.n_gen == b.n_gen && a.n_depth == b.n_depth && a.rows == b.rows;
}

/// Steps of a test that generates, before it counts: a card runs the first of a kind as it comes, records the second,
/// and the third is the first that was enqueued before the one ahead of it had ended.
int warmup_steps(const BenchmarkTest& test) { return std::min(test.n_gen, 4); }

template <class Step>
std::vector<BenchmarkResult> run_tests(Bench& bench, Bandwidth& bandwidth, const BenchmarkOptions& options,
                                       std::span<const BenchmarkTest> tests, const Step& step) {
  const BenchmarkTest& first = tests.front();
  if (bench.missing(first.n_depth) > 0) bandwidth.forget();
  bench.use_adapters(0);
  bench.reach(first.n_depth, first.rows, step);
  const auto once = [&](const BenchmarkTest& test, int n_gen) {
    bench.use_adapters(test.adapters);
    if (test.n_prompt > 0) {
      bench.prefill(test.n_depth, test.n_depth + test.n_prompt, step);
    } else {
      bench.generate(test.n_depth, n_gen, test.rows, step);
    }
  };
  std::vector<BenchmarkResult> results(tests.size());
  const double before = bandwidth.before();
  for (size_t t = 0; t < tests.size(); ++t) {
    results[t].test = tests[t];
    if (options.warmup) once(tests[t], warmup_steps(tests[t]));
    bench.use_adapters(tests[t].adapters);
    results[t].adapter_bytes = bench.adapter_bytes(tests[t].rows);
  }
  for (int i = 0; i < options.repetitions; ++i) {
    for (size_t t = 0; t < tests.size(); ++t) {
      const BenchmarkTest& test = tests[t];
      const auto start = Clock::now();
      once(test, test.n_gen);
      results[t].samples_ts.push_back(double(test.n_prompt + test.n_gen) * test.rows / seconds_since(start));
    }
  }
  const double after = bandwidth.after();
  for (BenchmarkResult& result : results) result.read_bandwidth = (before + after) / 2;
  return results;
}

void summarise(BenchmarkResult& result, const Reads& reads) {
  const BenchmarkTest& test = result.test;
  result.avg_ts = mean(result.samples_ts);
  result.stddev_ts = standard_deviation(result.samples_ts);
  result.median_ts = median(result.samples_ts);
  result.weight_bytes = reads.weights;
  if (test.n_gen == 0) return;
  double bytes = 0;
  for (int i = 0; i < test.n_gen; ++i) bytes += double(reads.kv(test.n_depth + i + 1));
  result.kv_bytes = bytes / test.n_gen * test.rows;
  if (result.read_bandwidth == 0) return;
  const double steps_per_s = result.median_ts / test.rows;
  result.bandwidth_share =
      (double(result.weight_bytes + result.adapter_bytes) + result.kv_bytes) * steps_per_s / result.read_bandwidth;
}

/// Tokens that all tests will compute, for the progress; follows Bench::reach().
uint64_t work(const BenchmarkOptions& options) {
  uint64_t tokens = 0;
  int valid = 0;
  for (const BenchmarkTest& test : options.tests) {
    const uint64_t each = uint64_t(test.n_prompt + test.n_gen) * uint64_t(test.rows);
    const uint64_t warmup = test.n_prompt > 0 ? each : uint64_t(warmup_steps(test)) * uint64_t(test.rows);
    tokens += uint64_t(std::max(test.n_depth - valid, 0)) + uint64_t(options.repetitions) * each;
    if (options.warmup) tokens += warmup;
    valid = test.n_depth;
  }
  return tokens;
}

}  // namespace

std::string BenchmarkTest::name() const {
  std::string text = n_prompt > 0 ? cat("pp", n_prompt) : cat("tg", n_gen);
  if (n_depth > 0) text += cat(" @ d", n_depth);
  if (adapters > 0) text += cat(" + ", adapters, adapters == 1 ? " adapter" : " adapters");
  return text;
}

std::vector<BenchmarkResult> benchmark(const Model& model, const BenchmarkOptions& options) {
  ModelState& state = *model.state();
  int rows = 1, length = 1;
  for (const BenchmarkTest& test : options.tests) {
    check(state, test, options.adapters.size());
    rows = std::max(rows, test.rows);
    length = std::max(length, int(length_of(test)));
  }
  check(state, options, rows, length);

  const uint64_t total = work(options);
  uint64_t done = 0;
  const auto step = [&](int tokens) {
    done += uint64_t(tokens);
    if (options.progress && !options.progress(done, total)) throw Error(ErrorCode::cancelled, "benchmark", "cancelled");
  };
  const int chunk = options.prefill_chunk > 0 ? options.prefill_chunk : state.device->backend().prompt_rows();
  Bench bench(state, rows, length, chunk, options.seed, options.adapters);
  const Reads reads = bench.reads();
  Bandwidth bandwidth(options, state.options);
  std::vector<BenchmarkResult> results;
  const std::span<const BenchmarkTest> tests(options.tests);
  for (size_t first = 0, last = 0; first < tests.size(); first = last) {
    while (last < tests.size() && take_turns(tests[first], tests[last])) ++last;
    for (BenchmarkResult& result : run_tests(bench, bandwidth, options, tests.subspan(first, last - first), step)) {
      summarise(result, reads);
      results.push_back(std::move(result));
      if (options.each) options.each(results.back());
    }
    bench.release();
  }
  return results;
}

Adapter random_adapter(const Model& model, int rank, uint64_t seed) {
  if (rank < 1 || rank > 4096)
    throw Error(ErrorCode::bad_request, "benchmark", cat("rank: expected 1 to 4096, got ", rank));
  uint64_t state = seed * 0x9E3779B97F4A7C15ull + 1;
  const auto fill = [&](int rows, int cols, double size) {
    lora::Matrix matrix{rows, cols, std::vector<float>(size_t(rows) * size_t(cols))};
    for (float& value : matrix.values) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      value = float((double(state >> 40) / double(1 << 24) * 2 - 1) * size);  // 24 bits: no bf16 holds them
    }
    return matrix;
  };
  lora::Adapter adapter;
  adapter.name = cat("random rank ", rank, " seed ", seed);
  for (const nn::TargetModule& module : model.state()->model().target_modules()) {
    if (module.kind != nn::TargetModule::Kind::linear || module.name == "lm_head") continue;
    adapter.modules[module.name].low_rank =
        lora::LowRank{fill(rank, module.in, 1 / std::sqrt(double(module.in))), fill(module.out, rank, 0.01), 1, {}, {}};
  }
  return api::make_adapter(std::move(adapter));
}

LoadBenchmark benchmark_load(const Repository& repository, const ModelOptions& model,
                             const LoadBenchmarkOptions& options) {
  if (options.repetitions < 1 || options.repetitions > kMaxRepetitions) {
    throw Error(ErrorCode::bad_request, "benchmark",
                cat("repetitions: expected 1 to ", kMaxRepetitions, ", got ", options.repetitions));
  }
  const auto bandwidth = [&] { return options.measure_bandwidth ? bandwidth_of(model.device, model.threads) : 0; };
  LoadBenchmark result;
  const double before = bandwidth();
  for (int i = 0; i <= options.repetitions; ++i) {
    const auto start = Clock::now();
    const Model loaded = load_model(repository, model);
    const double load_s = seconds_since(start);
    Bench bench(*loaded.state(), 1, 1, 1, 1);
    bench.prefill(0, 1, [](int) {});
    const double first_token_s = seconds_since(start);
    if (i == 0) {
      result.info = loaded.info();
      result.device = loaded.options().device;
      result.weight_bytes = bench.reads().weights;
      continue;
    }
    result.load_s.push_back(load_s);
    result.first_token_s.push_back(first_token_s);
  }
  result.read_bandwidth = (before + bandwidth()) / 2;
  result.median_load_s = median(result.load_s);
  result.median_first_token_s = median(result.first_token_s);
  return result;
}

}  // namespace bumblebee
