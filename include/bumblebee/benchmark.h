// How fast a loaded model is here, with the conventions of llama-bench: prompt processing (pp) and text generation
// (tg), at a depth, repeated. Needs no tokenizer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "bumblebee/adapter.h"
#include "bumblebee/model.h"
#include "bumblebee/repository.h"

namespace bumblebee {

/// One thing to measure. Exactly one of `n_prompt` and `n_gen` is positive.
struct BenchmarkTest {
  int n_prompt = 0;  // tokens of a prompt that are computed, in chunks as generation computes them
  int n_gen = 0;     // tokens that every sequence generates, one per step
  int n_depth = 0;   // tokens that are in the cache already; not timed
  int rows = 1;      // sequences that generate together; 1 for a prompt
  int adapters = 0;  // of BenchmarkOptions::adapters, in turns: row i uses number i modulo this; 0: the base

  /// "pp512", "tg128 @ d8192", "tg128 + 8 adapters".
  std::string name() const;
};

struct BenchmarkResult {
  BenchmarkTest test;
  std::vector<double> samples_ts;  // tokens per second of all rows together, one per repetition
  double avg_ts = 0, stddev_ts = 0, median_ts = 0;
  /// Bytes of the matrices that one step multiplies by. The embedding, of which a step reads single rows, counts only
  /// as a tied head.
  uint64_t weight_bytes = 0;
  /// Bytes of the packed adapters that one step uses.
  uint64_t adapter_bytes = 0;
  /// Bytes of keys and values that one step of generation reads, of all rows, mean over the steps; 0 for a prompt.
  double kv_bytes = 0;
  /// Bytes per second of a plain parallel read of memory with the model's threads, mean of before and after the test.
  double read_bandwidth = 0;
  /// (weight_bytes + adapter_bytes + kv_bytes) · median steps per second / read_bandwidth; 0 for a prompt.
  double bandwidth_share = 0;
};

struct BenchmarkOptions {
  std::vector<BenchmarkTest> tests;
  int repetitions = 5;
  bool warmup = true;             // before each test: its whole prompt, or up to four steps
  int prefill_chunk = 0;          // as GenerationOptions has it
  std::vector<Adapter> adapters;  // packed before the first test
  uint64_t seed = 1;              // of the prompts' ids
  double read_bandwidth = 0;      // bytes per second; 0: measured before and after each test, which takes a second each
  bool measure_bandwidth = true;  // false: a read_bandwidth of 0 stays 0, and so do the shares
  uint64_t max_kv_bytes = 0;      // a test whose keys and values take more is refused; 0: this machine's memory
  Progress progress;              // called after every step, with tokens
  std::function<void(const BenchmarkResult& result)> each;  // called as soon as a test is done
};

/// Runs the tests one after the other and returns a result for each, in order; neighbours that differ in `adapters`
/// only take turns, repetition by repetition, so that what else the machine does meets both. Measures what a user of
/// `model` gets: the whole forward pass, the logits of the last token, and the greedy choice from them. Tests of rising
/// depth share the work of reaching it. Throws, before the first test runs, Error(bad_request) for tests that mean
/// nothing or do not fit the model's context, and Error(out_of_memory) when the keys and values of a test take too much
/// memory; Error(cancelled) when `progress` returns false.
std::vector<BenchmarkResult> benchmark(const Model& model, const BenchmarkOptions& options);

/// A low-rank adapter of random numbers for every linear layer of the model but its head: what an adapter of this rank
/// costs. Throws Error(bad_request) for a rank that is not from 1 to 4096.
Adapter random_adapter(const Model& model, int rank, uint64_t seed);

struct LoadBenchmark {
  ModelInfo info;
  std::string device;                 // that it was loaded to
  std::vector<double> load_s;         // from the call to a model that can compute
  std::vector<double> first_token_s;  // from the same moment to the first token after a prompt of one token
  double median_load_s = 0, median_first_token_s = 0;
  uint64_t weight_bytes = 0;  // as in BenchmarkResult
  double read_bandwidth = 0;  // bytes per second, mean of before and after; 0 when not measured
};

struct LoadBenchmarkOptions {
  int repetitions = 5;
  bool measure_bandwidth = true;
};

/// Loads the model `repetitions` times, after one time that is not counted and brings the files into the page cache.
/// The tokenizer is not loaded. Throws what load_model() throws.
LoadBenchmark benchmark_load(const Repository& repository, const ModelOptions& model,
                             const LoadBenchmarkOptions& options = {});

}  // namespace bumblebee
