// Hybrids of attention and of gated delta nets or short convolutions: what is packed, cut, given up, forked or found
// again changes no answer, although a state cannot go back.
#include "exec/local_executor.h"
#include "tests/engine/engine_test.h"

namespace bumblebee::engine {
namespace {

struct Hybrid {
  const char* golden;
  Operation needs;
};
constexpr Hybrid kHybrids[] = {{"delta/qwen3_5_long", Operation::delta_rule},
                               {"lfm2/lfm2_long", Operation::short_conv}};

class HybridOnDevice : public ::testing::TestWithParam<std::tuple<std::string, Hybrid>> {
 protected:
  void SetUp() override {
    if (const Operation needed = std::get<1>(GetParam()).needs; testing_support::lacks(device(), needed))
      GTEST_SKIP() << "no " << name_of(needed) << " on " << device();
  }
  const std::string& device() const { return std::get<0>(GetParam()); }
  Model load() const { return load_alike(cat(BB_TEST_DATA, "/goldens/", std::get<1>(GetParam()).golden), device()); }
};
INSTANTIATE_TEST_SUITE_P(Devices, HybridOnDevice,
                         ::testing::Combine(::testing::ValuesIn(device_names()), ::testing::ValuesIn(kHybrids)),
                         [](const auto& test) {
                           const std::string golden = std::get<1>(test.param).golden;
                           return std::get<0>(test.param) + "_" + golden.substr(golden.find('/') + 1);
                         });

void expect_same_bits(const GenerationResult& got, const GenerationResult& want) {
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_EQ(got.reason, want.reason);
  ASSERT_EQ(got.logprobs.size(), want.logprobs.size());
  for (size_t i = 0; i < want.logprobs.size(); ++i) EXPECT_EQ(got.logprobs[i].logprob, want.logprobs[i].logprob) << i;
}

/// Prompts of several lengths, of which some begin alike, and every way to choose a token.
std::vector<Request> requests(int vocab) {
  const std::vector<int32_t> system = some_tokens(300, vocab, 1);
  std::vector<Request> works;
  for (unsigned i = 0; i < 8; ++i) {
    GenerationConfig config = greedy(5 + int(i));
    if (i % 4 == 1) config.strategy = MultinomialSampling{.top_k = 20, .top_p = 0.9, .min_p = 0};
    if (i % 4 == 3) config.strategy = ContrastiveSearch{.top_k = 3, .alpha = 0.5};
    std::vector<int32_t> prompt = some_tokens(3 + int(i) * 23, vocab, 20 + i);
    if (i % 2 == 0) prompt.insert(prompt.begin(), system.begin(), system.end() - int(i) * 5);
    works.push_back(work_of(std::move(prompt), config, 100 + i));
  }
  return works;
}

std::vector<GenerationResult> alone(const Model& model, const std::vector<Request>& works) {
  std::vector<GenerationResult> results;
  for (const Request& work : works) {
    EngineOn engine(model.state(),
                    {.batch_size = 1, .sequence_length = 500, .prefill_chunk = 512, .prefix_cache = false});
    results.push_back(submit(engine, work)->wait());
  }
  return results;
}

TEST_P(HybridOnDevice, GreedyFollowsTheLogitsOfOneLongPrefill) {
  const Model model = load();
  EngineOn engine(model.state(), {.batch_size = 1, .sequence_length = 100, .prefill_chunk = 7});
  std::vector<int32_t> tokens = some_tokens(11, model.info().vocab, 1);
  const GenerationResult outcome = submit(engine, work_of(tokens, greedy(12)))->wait();
  ASSERT_EQ(outcome.tokens.size(), 12u);
  tokens.insert(tokens.end(), outcome.tokens.begin(), outcome.tokens.end());
  const auto rows = all_logits(model, tokens);
  for (size_t i = 0; i < 12; ++i) {
    EXPECT_EQ(argmax(rows[10 + i]), outcome.tokens[i]) << "token " << i;
    EXPECT_NEAR(outcome.logprobs[i].logprob, log_probability(rows[10 + i], outcome.tokens[i]), kTolerance);
  }
}

TEST_P(HybridOnDevice, PackedCutAndForkedSequencesGetTheirSoloBits) {
  const Model model = load();
  const std::vector<Request> works = requests(model.info().vocab);
  const std::vector<GenerationResult> want = alone(model, works);
  for (const auto& [batch, chunk] : {std::pair(2, 5), std::pair(4, 48), std::pair(8, 512)}) {
    if (device() != "cpu" && batch == 2) continue;
    EngineOn engine(model.state(), {.batch_size = batch, .sequence_length = 500, .prefill_chunk = chunk});
    std::vector<std::shared_ptr<Answer>> jobs;
    for (const Request& work : works) jobs.push_back(submit(engine, work));
    for (size_t i = 0; i < jobs.size(); ++i) {
      SCOPED_TRACE(cat("request ", i, " batch ", batch, " chunk ", chunk));
      expect_same_bits(jobs[i]->wait(), want[i]);
    }
    EXPECT_EQ(engine.stats().states_used, 0);
  }
}

/// A prompt goes on from the last state that is kept of its beginning: at the end of a prompt's whole pages, and where
/// an earlier prompt parted.
TEST_P(HybridOnDevice, PromptsGoOnFromCheckpoints) {
  const Model model = load();
  const int vocab = model.info().vocab;
  const EngineOptions options = {.batch_size = 2, .sequence_length = 500, .prefill_chunk = 100};
  EngineOn engine(model.state(), options);
  const std::vector<int32_t> system = some_tokens(330, vocab, 1);
  const auto ask = [&](int shared, unsigned own, int cached) {
    std::vector<int32_t> prompt(system.begin(), system.begin() + shared);
    const std::vector<int32_t> rest = some_tokens(20, vocab, 10 + own);
    prompt.insert(prompt.end(), rest.begin(), rest.end());
    const Request work = work_of(std::move(prompt), greedy(6), own);
    EngineOptions cold = options;
    cold.prefix_cache = false;
    EngineOn fresh(model.state(), cold);
    const GenerationResult got = submit(engine, work)->wait();
    EXPECT_EQ(got.cached, cached) << "prompt " << own;
    expect_same_bits(got, submit(fresh, work)->wait());
  };
  ask(330, 1, 0);    // leaves a checkpoint at 320
  ask(330, 2, 320);  // which this one has
  ask(330, 1, 320);
  ask(290, 3, 0);  // parts after 256 tokens, where there is none, and leaves one
  ask(290, 4, 256);
  const text::ServingStats stats = engine.stats();
  EXPECT_GE(stats.states_cached, 2);
  EXPECT_EQ(stats.states_used, 0);
  EXPECT_EQ(stats.prefix_hits, 320u + 320u + 256u);
}

TEST_P(HybridOnDevice, GivenUpStreamsGetTheirSoloBits) {
  const Model model = load();
  std::vector<Request> works;
  for (unsigned i = 0; i < 8; ++i) {
    GenerationConfig config = greedy(330);
    if (i % 2 == 1) config.strategy = MultinomialSampling{};
    works.push_back(work_of(some_tokens(10 + int(i) * 7, model.info().vocab, i), config, i));
  }
  const std::vector<GenerationResult> want = alone(model, works);
  // Two begin beside each other, as long as 256 more tokens fit: eleven pages, where each comes to need six.
  const ModelInfo& info = model.info();
  const uint64_t page = info.kv_bytes(exec::kPageSize, model.options().kv_type);
  uint64_t bytes = 11 * page;
  while (bytes < 11 * page + info.state_bytes * uint64_t(exec::state_count(model.state()->model().dims(), 8, bytes)))
    bytes += info.state_bytes;
  Engine engine(model.state()->make_executor({.sequences = 8, .sequence_length = 420, .dtype = {}, .bytes = bytes}),
                {.batch_size = 8,
                 .sequence_length = 420,
                 .prefill_chunk = 64,
                 .vocab = info.vocab,
                 .d_model = info.hidden,
                 .step_target_ms = 0});
  std::vector<std::shared_ptr<Answer>> answers;
  for (const Request& work : works) answers.push_back(submit(engine, work));
  for (size_t i = 0; i < answers.size(); ++i) {
    SCOPED_TRACE(i);
    expect_same_bits(answers[i]->wait(), want[i]);
  }
  EXPECT_GT(engine.stats().preemptions, 0u);
}

}  // namespace
}  // namespace bumblebee::engine
