// What the benchmark reports: its figures agree with each other and with the model's facts. How large they are is not
// asked: that depends on the machine.
#include "bumblebee/benchmark.h"

#include <algorithm>

#include "base/error.h"
#include "tests/engine/engine_test.h"

namespace bumblebee::engine {
namespace {

constexpr double kBandwidth = 1e9;  // measuring it takes a second per test

BenchmarkTest prompt(int tokens, int depth = 0) {
  return {.n_prompt = tokens, .n_gen = 0, .n_depth = depth, .rows = 1, .adapters = 0};
}
BenchmarkTest generation(int tokens, int depth = 0, int rows = 1) {
  return {.n_prompt = 0, .n_gen = tokens, .n_depth = depth, .rows = rows, .adapters = 0};
}

BenchmarkOptions options_for(std::vector<BenchmarkTest> tests, int repetitions = 3) {
  BenchmarkOptions options;
  options.tests = std::move(tests);
  options.repetitions = repetitions;
  options.read_bandwidth = kBandwidth;
  return options;
}

/// Bytes of the matrices, with or without the embedding.
uint64_t matrix_bytes(const ModelInfo& info, bool embedding) {
  uint64_t bytes = 0;
  for (const ModuleInfo& module : info.modules) {
    if (embedding || module.name != "model.embed_tokens") bytes += module.bytes;
  }
  return bytes;
}

std::string refusal(const Model& model, const BenchmarkOptions& options, ErrorCode code = ErrorCode::bad_request) {
  try {
    benchmark(model, options);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "ran";
  return "";
}

class BenchmarkOnDevice : public OnDevice {};
INSTANTIATE_TEST_SUITE_P(Devices, BenchmarkOnDevice, ::testing::ValuesIn(device_names()),
                         [](const auto& test) { return test.param; });

TEST(BenchmarkTestName, IsThatOfLlamaBench) {
  EXPECT_EQ(prompt(512).name(), "pp512");
  EXPECT_EQ(generation(128).name(), "tg128");
  EXPECT_EQ(prompt(512, 8192).name(), "pp512 @ d8192");
  EXPECT_EQ(generation(128, 8192, 4).name(), "tg128 @ d8192");
}

TEST_P(BenchmarkOnDevice, FiguresAgreeWithEachOther) {
  const Model model = load(golden_model("qwen3"), GetParam());
  std::vector<std::string> announced;
  BenchmarkOptions options = options_for({prompt(20), generation(5), generation(4, 70, 3), prompt(5, 70)}, 4);
  options.prefill_chunk = 16;
  options.each = [&](const BenchmarkResult& result) { announced.push_back(result.test.name()); };
  const std::vector<BenchmarkResult> results = benchmark(model, options);
  EXPECT_EQ(announced, (std::vector<std::string>{"pp20", "tg5", "tg4 @ d70", "pp5 @ d70"}));
  ASSERT_EQ(results.size(), 4u);
  for (const BenchmarkResult& result : results) {
    SCOPED_TRACE(result.test.name());
    ASSERT_EQ(result.samples_ts.size(), 4u);
    std::vector<double> sorted = result.samples_ts;
    std::sort(sorted.begin(), sorted.end());
    EXPECT_GT(sorted.front(), 0);
    const double average = (sorted[0] + sorted[1] + sorted[2] + sorted[3]) / 4;
    EXPECT_DOUBLE_EQ(result.median_ts, (sorted[1] + sorted[2]) / 2);
    EXPECT_NEAR(result.avg_ts, average, 1e-9 * average);
    double squares = 0;
    for (double sample : sorted) squares += (sample - average) * (sample - average);
    EXPECT_NEAR(result.stddev_ts, std::sqrt(squares / 3), 1e-6 * average);
    EXPECT_EQ(result.read_bandwidth, kBandwidth);
    EXPECT_EQ(result.weight_bytes, matrix_bytes(model.info(), model.info().tied_head));
    const double steps_per_s = result.median_ts / result.test.rows;
    const double share = (double(result.weight_bytes) + result.kv_bytes) * steps_per_s / kBandwidth;
    EXPECT_NEAR(result.bandwidth_share, result.test.n_gen > 0 ? share : 0, 1e-9 * share);
  }
  EXPECT_EQ(results[0].kv_bytes, 0);
  EXPECT_EQ(results[3].kv_bytes, 0);
  // Lengths 1 to 5; 71 to 74 in three rows.
  EXPECT_DOUBLE_EQ(results[1].kv_bytes, double(model.info().kv_bytes(3)));
  EXPECT_DOUBLE_EQ(results[2].kv_bytes, 3 * 72.5 * double(model.info().kv_bytes(1)));
}

TEST_P(BenchmarkOnDevice, LeavesTheModelAsItWas) {
  const Model model = load(golden_model("llama_f32"), GetParam());
  const std::vector<int32_t> tokens = some_tokens(20, model.info().vocab, 3);
  const auto before = all_logits(model, tokens);
  benchmark(model, options_for({prompt(30), generation(3, 10, 2)}, 1));
  EXPECT_TRUE(all_logits(model, tokens) == before);
}

TEST(Benchmark, AnEmbeddingCountsOnlyAsTiedHead) {
  const Model tied = load(golden_model("smollm2"), "cpu"), untied = load(golden_model("llama"), "cpu");
  ASSERT_TRUE(tied.info().tied_head);
  ASSERT_FALSE(untied.info().tied_head);
  const auto bytes = [](const Model& model) {
    return benchmark(model, options_for({generation(1)}, 1)).front().weight_bytes;
  };
  EXPECT_EQ(bytes(tied), matrix_bytes(tied.info(), true));
  EXPECT_EQ(bytes(untied), matrix_bytes(untied.info(), false));
  EXPECT_LT(bytes(untied), matrix_bytes(untied.info(), true));
  const Model quantized = load(BB_TEST_DATA "/goldens/widths/b3_g128_shards_f16", "cpu");
  EXPECT_EQ(bytes(quantized), matrix_bytes(quantized.info(), quantized.info().tied_head));
}

TEST(Benchmark, AWindowLimitsWhatAStepReads) {
  const Model model = load(golden_model("mistral"), "cpu");  // every layer sees 5 keys
  const std::vector<BenchmarkResult> results = benchmark(model, options_for({generation(2), generation(2, 100)}, 1));
  EXPECT_DOUBLE_EQ(results[0].kv_bytes, 1.5 * double(model.info().kv_bytes(1)));
  EXPECT_DOUBLE_EQ(results[1].kv_bytes, double(model.info().kv_bytes(5)));
}

TEST(Benchmark, TheKvTypeCounts) {
  ModelOptions half;
  half.kv_type = KvType::bf16;
  half.threads = 2;
  const Model model = load_model(local(golden_model("llama")), half);
  const BenchmarkResult result = benchmark(model, options_for({generation(1, 9)}, 1)).front();
  EXPECT_DOUBLE_EQ(result.kv_bytes, double(model.info().kv_bytes(10, KvType::bf16)));
}

TEST(Benchmark, ProgressCountsTheWorkAndDepthIsReachedOnce) {
  const Model model = load(golden_model("llama"), "cpu");
  uint64_t last = 0, all = 0;
  BenchmarkOptions options =
      options_for({generation(4, 40), prompt(8, 40), generation(3, 60, 2), generation(2, 10)}, 2);
  options.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_GT(done, last);
    EXPECT_EQ(all == 0 ? total : all, total);
    last = done;
    all = total;
    return true;
  };
  benchmark(model, options);
  EXPECT_EQ(last, all);
  // Depth 40, then 20 more, then none. Warm-up: up to four steps of each row, or the prompt.
  const uint64_t depth = 40 + 20, warmup = 4 + 8 + 3 * 2 + 2, measured = 2 * (4 + 8 + 3 * 2 + 2);
  EXPECT_EQ(all, depth + warmup + measured);

  options.warmup = false;
  last = all = 0;
  benchmark(model, options);
  EXPECT_EQ(last, depth + measured);
  EXPECT_EQ(all, last);

  int calls = 0;
  bool any = false;
  options.each = [&](const BenchmarkResult&) { any = true; };
  options.progress = [&](uint64_t, uint64_t) { return ++calls < 2; };
  refusal(model, options, ErrorCode::cancelled);
  EXPECT_EQ(calls, 2);
  EXPECT_FALSE(any);
}

TEST(Benchmark, RefusesBeforeTheFirstTest) {
  const Model model = load(golden_model("llama"), "cpu");
  const auto refused = [&](std::vector<BenchmarkTest> tests, const char* part) {
    BenchmarkOptions options = options_for(std::move(tests));
    options.progress = [](uint64_t, uint64_t) {
      ADD_FAILURE() << "computed something";
      return true;
    };
    const std::string what = refusal(model, options);
    EXPECT_NE(what.find(part), std::string::npos) << what;
  };
  const int context = model.info().context;
  refused({}, "at least one");
  refused({generation(1), prompt(0)}, "one of them positive");
  refused({generation(1), {.n_prompt = 3, .n_gen = 3, .n_depth = 0, .rows = 1, .adapters = 0}}, "one of them positive");
  refused({generation(1), prompt(-1)}, "n_prompt");
  refused({generation(1), generation(-1)}, "n_gen");
  refused({generation(1), generation(1, -1)}, "n_depth");
  refused({generation(1), generation(1, 0, 0)}, "rows");
  refused({generation(1), generation(1, 0, 1025)}, "1 to 1024");
  refused({generation(1), {.n_prompt = 3, .n_gen = 0, .n_depth = 0, .rows = 2, .adapters = 0}}, "1 for a prompt");
  refused({generation(1), prompt(context + 1)}, "the model's context");
  refused({generation(1), generation(1 << 30, 1 << 30)}, "got 2147483648");

  BenchmarkOptions options = options_for({generation(1)});
  options.repetitions = 0;
  EXPECT_NE(refusal(model, options).find("repetitions"), std::string::npos);
  options.repetitions = 1;
  options.prefill_chunk = -1;
  EXPECT_NE(refusal(model, options).find("prefill_chunk"), std::string::npos);
  options.prefill_chunk = 1;
  options.tests = {generation(10, 90, 4)};
  options.max_kv_bytes = 4 * model.info().kv_bytes(100) - 1;
  EXPECT_NE(refusal(model, options, ErrorCode::out_of_memory).find("tg10 @ d90"), std::string::npos);
  ++options.max_kv_bytes;
  EXPECT_EQ(benchmark(model, options).size(), 1u);
}

TEST(Benchmark, AWholeContextFits) {
  const Model model = load(golden_model("llama"), "cpu");
  const int context = model.info().context;
  EXPECT_EQ(benchmark(model, options_for({prompt(context), generation(2, context - 2)}, 1)).size(), 2u);
}

TEST(Benchmark, MeasuresTheBandwidthItself) {
  const Model model = load(golden_model("llama"), "cpu");
  BenchmarkOptions options = options_for({generation(2)}, 1);
  options.read_bandwidth = 0;
  const BenchmarkResult measured = benchmark(model, options).front();
  EXPECT_GT(measured.read_bandwidth, 1e8);
  EXPECT_GT(measured.bandwidth_share, 0);
  options.measure_bandwidth = false;
  const BenchmarkResult without = benchmark(model, options).front();
  EXPECT_EQ(without.read_bandwidth, 0);
  EXPECT_EQ(without.bandwidth_share, 0);
  EXPECT_GT(without.median_ts, 0);
}

TEST(BenchmarkLoad, TimesLoadingAndTheFirstToken) {
  ModelOptions options;
  options.threads = 2;
  const Repository repository = local(golden_model("llama"));
  const LoadBenchmark loading = benchmark_load(repository, options, {.repetitions = 3, .measure_bandwidth = true});
  ASSERT_EQ(loading.load_s.size(), 3u);
  ASSERT_EQ(loading.first_token_s.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_GT(loading.load_s[i], 0);
    EXPECT_GT(loading.first_token_s[i], loading.load_s[i]);
  }
  std::vector<double> sorted = loading.first_token_s;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(loading.median_first_token_s, sorted[1]);
  EXPECT_EQ(loading.weight_bytes, matrix_bytes(inspect_model(repository), false));
  EXPECT_GT(loading.read_bandwidth, 1e8);
  const LoadBenchmarkOptions quick{.repetitions = 1, .measure_bandwidth = false};
  EXPECT_EQ(benchmark_load(repository, options, quick).read_bandwidth, 0);
  EXPECT_THROW(benchmark_load(repository, options, {.repetitions = 0, .measure_bandwidth = false}), Error);
  options.device = "quantum";
  EXPECT_THROW(benchmark_load(repository, options, quick), Error);
}

}  // namespace
}  // namespace bumblebee::engine
