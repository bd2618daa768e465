// What a session keeps between its turns changes no answer, and is not computed again.
#include "tests/engine/engine_test.h"
#include "tests/engine/scripted_executor.h"

namespace bumblebee::engine {
namespace {

TEST_P(OnDevice, ASessionsTurnsAreWhatAFreshComputationGives) {
  // Cards compute a generated token's keys and values in another way than a prompt's, as above.
  const double tolerance = GetParam() == "cuda" ? 10 * 0x1p-12 : 0;
  const Model model = load(golden_model("qwen3"), GetParam());
  const EngineOptions options = {.batch_size = 2, .sequence_length = 200, .prefill_chunk = 16};
  EngineOn engine(model.state(), options);
  const auto session = std::make_shared<int>();
  std::vector<int32_t> conversation = some_tokens(70, model.info().vocab, 1);
  size_t computed = 0;
  for (unsigned turn = 0; turn < 4; ++turn) {
    Request work = work_of(conversation, greedy(9));
    work.session = session;
    const GenerationResult got = engine.submit(work)->wait();
    EXPECT_EQ(size_t(got.reused), computed);
    EngineOn alone(model.state(), options);
    const GenerationResult want = alone.submit(work_of(conversation, greedy(9)))->wait();
    EXPECT_EQ(got.tokens, want.tokens);
    for (size_t i = 0; i < want.logprobs.size(); ++i)
      EXPECT_NEAR(got.logprobs.at(i).logprob, want.logprobs[i].logprob, tolerance) << "turn " << turn;
    conversation.insert(conversation.end(), got.tokens.begin(), got.tokens.end());
    computed = conversation.size() - 1;  // the last token's keys and values nobody needed
    const std::vector<int32_t> question = some_tokens(5 + int(turn) * 9, model.info().vocab, 50 + turn);
    conversation.insert(conversation.end(), question.begin(), question.end());
    if (turn == 2) {  // the last turn is taken back, and asked in another way
      conversation.resize(90);
      conversation[89] ^= 1;
      computed = 89;
    }
  }
}

/// Counts the rows of each step.
class CountingExecutor final : public ScriptedExecutor {
 public:
  CountingExecutor(int pages, int vocab, std::vector<int>& rows) : ScriptedExecutor(pages, vocab), rows_(rows) {}
  exec::Ticket launch(const exec::Step& step) override {
    rows_.push_back(int(step.batch.tokens.size()));
    return ScriptedExecutor::launch(step);
  }

 private:
  std::vector<int>& rows_;
};

TEST(ScriptedEngine, ASecondTurnsRowsAreItsOwn) {
  constexpr int kVocab = 1000;
  std::vector<int> rows;
  Engine engine(std::make_unique<CountingExecutor>(9, kVocab, rows),
                {.batch_size = 1, .sequence_length = 300, .prefill_chunk = 512, .vocab = kVocab, .d_model = 1});
  const auto session = std::make_shared<int>();
  const auto turn = [&](std::vector<int32_t> prompt) {
    rows.clear();
    Request work = work_of(std::move(prompt), {});
    work.config.max_new_tokens = 3;
    work.session = session;
    return engine.submit(std::move(work))->wait();
  };
  std::vector<int32_t> conversation = some_tokens(100, kVocab, 1);
  GenerationResult answer = turn(conversation);
  EXPECT_EQ(rows, (std::vector<int>{100, 1, 1}));
  conversation.insert(conversation.end(), answer.tokens.begin(), answer.tokens.end());
  conversation.insert(conversation.end(), {11, 12, 13, 14});
  answer = turn(conversation);
  EXPECT_EQ(rows, (std::vector<int>{1 + 4, 1, 1})) << "the answer's last token, and the question";
  EXPECT_EQ(answer.reused, 102);
  EXPECT_EQ(answer.tokens.front(), ScriptedExecutor::next(conversation, kVocab));
  answer = turn(conversation);
  EXPECT_EQ(rows.front(), 1) << "the same again computes one row, to choose from";
  EXPECT_EQ(answer.tokens.front(), ScriptedExecutor::next(conversation, kVocab));
}

TEST(ScriptedEngine, ASessionWithAdaptersOpensThemAnewEachTurn) {
  constexpr int kVocab = 1000;
  std::vector<int> rows;
  Engine engine(std::make_unique<CountingExecutor>(9, kVocab, rows),
                {.batch_size = 1, .sequence_length = 300, .prefill_chunk = 512, .vocab = kVocab, .d_model = 1});
  const auto session = std::make_shared<int>();
  const auto reused = [&](uint8_t adapter) {
    auto set = std::make_shared<lora::AdapterSet>();
    set->id.bytes[0] = adapter;
    Request work = work_of(some_tokens(100, kVocab, 1), {});
    work.config.max_new_tokens = 3;
    work.session = session;
    work.adapters = std::move(set);
    return engine.submit(std::move(work))->wait().reused;
  };
  EXPECT_EQ(reused(1), 0);
  EXPECT_EQ(reused(1), 99) << "nobody held the set between the turns";
  EXPECT_EQ(reused(2), 0);
}

}  // namespace
}  // namespace bumblebee::engine
