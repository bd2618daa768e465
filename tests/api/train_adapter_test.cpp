// The whole way through public headers: a 4-bit base, rows of chat, an adapter on the disk, and what it makes the model
// say.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <thread>

#include "bumblebee/bumblebee.h"

namespace bumblebee {
namespace {

namespace fs = std::filesystem;

class Scratch {
 public:
  Scratch() {
    static std::atomic<int> counter{0};
    path_ =
        fs::temp_directory_path() / ("bumblebee-api-" + std::to_string(::getpid()) + "-" + std::to_string(counter++));
    fs::create_directories(path_);
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  fs::path operator/(const char* name) const { return path_ / name; }

 private:
  fs::path path_;
};

struct Sample {
  const char *question, *answer;
};
constexpr Sample kSamples[] = {{"Colour of the sky?", "Blue, mostly."},
                               {"Two and two?", "Four."},
                               {"Who hums?", "The bumblebee hums."},
                               {"Where is home?", "Under the old oak."},
                               {"When is tea?", "At five o'clock sharp."},
                               {"Why sing?", "Because rain fell."},
                               {"Name a tree.", "Hornbeam!"},
                               {"Say nothing.", "..."}};

std::string row(const std::string& question, const std::string& answer) {
  return R"({"messages":[{"role":"user","content":")" + question + R"("},{"role":"assistant","content":")" + answer +
         R"("}]})";
}

TrainData samples() {
  TrainData data;
  for (const Sample& sample : kSamples) data.train.push_back(row(sample.question, sample.answer));
  data.valid = data.test = {data.train.begin(), data.train.begin() + 3};
  data.mask_prompt = true;
  return data;
}

class Training : public testing::Test {
 protected:
  static constexpr const char* kModel = BB_TEST_DATA "/apps/tiny";

  static Model load(Precision precision = Precision::fast) {
    ModelOptions options;
    options.quantization = Quantization::int4;
    options.group_size = 32;
    options.threads = 2;
    options.precision = precision;
    return load_model(local(kModel), options);
  }

  TrainOptions options(const char* name = "adapters") const {
    TrainOptions o;
    o.lora.num_layers = -1;
    o.lora.rank = 16;
    o.lora.scale = 4;
    o.learning_rate = 1e-3;
    o.batch_size = 8;
    o.iters = 1000;
    o.steps_per_eval = 400;
    o.save_every = 5000;
    o.adapter_path = scratch / name;
    return o;
  }

  std::string answer(const Model& model, const char* question, const std::vector<WeightedAdapter>& adapters) const {
    GenerationConfig config = load_generation_config(local(kModel));
    config.max_new_tokens = 40;
    text::Input input;
    input.messages = {{.role = "user", .content = question, .json = {}}};
    input.adapters = adapters;
    return text::generation(model, tokenizer, config).run(input).text;
  }

  Scratch scratch;
  Tokenizer tokenizer = load_tokenizer(local(kModel));
};

TEST_F(Training, EightSamplesAreSaidWithTheAdapterAndNotWithout) {
  const Model model = load();
  TrainOptions o = options();
  o.sample_prompts = {kSamples[0].question};
  std::vector<TrainSample> said;
  o.callbacks.sampled = [&](const TrainSample& sample) { said.push_back(sample); };
  o.test = true;
  const TrainResult result = train_adapter(model, tokenizer, samples(), o);
  EXPECT_LT(result.train_loss, 0.2);
  EXPECT_LT(*result.test_loss, 0.2);
  const Adapter adapter = load_adapter(local(o.adapter_path));
  EXPECT_EQ(adapter.info().id, result.adapter_id);
  EXPECT_EQ(adapter.info().rank, 16);
  for (const Sample& sample : kSamples) {
    EXPECT_EQ(answer(model, sample.question, {{adapter}}), sample.answer);
    EXPECT_NE(answer(model, sample.question, {}), sample.answer);
  }
  ASSERT_EQ(said.size(), 4u);  // before the first, after 400, 800 and 1000
  EXPECT_EQ(said.front().prompt, kSamples[0].question);
  EXPECT_NE(said.front().text, kSamples[0].answer);
  EXPECT_EQ(said.back().text, kSamples[0].answer);
  EXPECT_EQ(model.adapter_memory().adapters, 1);  // those of the samples are gone
}

TEST_F(Training, TheLossIsThatOfTheLogits) {
  const Model model = load(Precision::exact);
  TrainOptions o = options();
  o.iters = 5;
  o.test = true;
  const TrainResult result = train_adapter(model, tokenizer, samples(), o);
  const double loss = test_loss(model, tokenizer, samples(), o, {{load_adapter(local(o.adapter_path))}});
  EXPECT_NEAR(loss, *result.test_loss, 1e-4 * loss);
  EXPECT_GT(std::abs(test_loss(model, tokenizer, samples(), o) - loss), 1e-3);
}

TEST_F(Training, OnTopOfAnotherBothAreNeeded) {
  const Model model = load(Precision::exact);
  TrainOptions first = options("first"), second = options("second");
  first.iters = second.iters = 10;
  second.test = true;
  train_adapter(model, tokenizer, samples(), first);
  const Adapter below = load_adapter(local(first.adapter_path));
  second.on_top_of = {{below, 0.5f}};
  const TrainResult result = train_adapter(model, tokenizer, samples(), second);
  const Adapter above = load_adapter(local(second.adapter_path));
  const double both = test_loss(model, tokenizer, samples(), second, {{below, 0.5f}, {above}}),
               alone = test_loss(model, tokenizer, samples(), second, {{above}});
  EXPECT_NEAR(both, *result.test_loss, 1e-4 * both);
  EXPECT_GT(std::abs(both - alone), 1e-3);
  EXPECT_EQ(above.info().on_top_of, "first:0.5");
  second.format = AdapterFormat::peft;
  second.overwrite = true;
  second.iters = 1;
  train_adapter(model, tokenizer, samples(), second);
  EXPECT_EQ(load_adapter(local(second.adapter_path)).info().on_top_of, "first:0.5");
}

TEST_F(Training, TheEndComparesAndSaysWhatIsCopied) {
  const Model model = load();
  TrainOptions o = options();
  o.iters = 400;
  o.report_samples = 3;
  const TrainResult result = train_adapter(model, tokenizer, samples(), o);
  ASSERT_EQ(result.comparisons.size(), 3u);
  int copied = 0;
  for (const TrainComparison& one : result.comparisons) {
    EXPECT_FALSE(one.prompt.empty());
    EXPECT_NE(one.with, one.without);
    EXPECT_LE(one.copied_with.words, one.copied_with.of_words);
    if (one.copied_with.words == 0) continue;
    EXPECT_NE(one.with.find(one.copied_with.text), std::string::npos);
    EXPECT_TRUE(one.copied_with.where.starts_with("train:")) << one.copied_with.where;
    EXPECT_GT(one.copied_with.tokens, 0);
    copied = std::max(copied, one.copied_with.words);
  }
  EXPECT_GT(copied, 0) << "four hundred passes over eight rows";
  EXPECT_GT(*result.first_val_loss, 0);
  EXPECT_FALSE(result.verdict.empty());
  o.overwrite = true;
  o.report_samples = 0;
  EXPECT_TRUE(train_adapter(model, tokenizer, samples(), o).comparisons.empty());
}

TEST_F(Training, WhatFailsInTheComparisonFailsNoTraining) {
  const Model model = load();
  TrainOptions o = options();
  o.iters = 1;
  o.report_samples = 2;
  std::string note;
  o.callbacks.note = [&](const std::string& text) { note = text; };
  o.callbacks.comparing = [](int64_t done, int64_t) -> bool {
    if (done == 2) throw std::bad_alloc();
    return true;
  };
  const TrainResult result = train_adapter(model, tokenizer, samples(), o);
  EXPECT_EQ(result.iterations, 1);
  EXPECT_TRUE(result.comparisons.empty()) << "half a comparison would say that nothing was learned by heart";
  EXPECT_TRUE(note.starts_with("no texts to compare")) << note;
  EXPECT_EQ(model.adapter_memory().adapters, 0);
}

TEST_F(Training, OthersMayGenerateMeanwhile) {
  const Model model = load();
  TrainOptions o = options("alone");
  o.iters = 20;
  const std::string alone = train_adapter(model, tokenizer, samples(), o).adapter_id;
  std::atomic<bool> done{false};
  const std::string before = answer(model, "Who hums?", {});
  std::thread other([&] {
    while (!done.load()) EXPECT_EQ(answer(model, "Who hums?", {}), before);
  });
  o.adapter_path = scratch / "beside";
  const std::string beside = train_adapter(model, tokenizer, samples(), o).adapter_id;
  done.store(true);
  other.join();
  EXPECT_EQ(alone, beside);
}

TEST_F(Training, ThePlanSaysWhatWillBeDone) {
  const Model model = load();
  const TrainPlan plan = plan_training(model, tokenizer, samples(), options(), true);
  EXPECT_EQ(plan.rows, 8);
  EXPECT_EQ(plan.valid_rows, 3);
  EXPECT_EQ(plan.batches, 1);
  EXPECT_EQ(plan.modules, 14);
  EXPECT_EQ(plan.layers, 2);
  EXPECT_EQ(plan.parameters, model.info().parameters);
  // rank·(in + out) of q, k, v, o, gate, up and down of two layers
  EXPECT_EQ(plan.trainable_parameters, 2u * 16 * (128 + 96 + 96 + 128 + 160 + 160 + 160));
  EXPECT_GT(plan.seconds, 0);
  EXPECT_FALSE(fs::exists(options().adapter_path));
}

TEST_F(Training, RowsBeyondTheContextAreAnError) {
  const Model model = load();
  TrainData data = samples();
  data.train.front() = row("?", std::string(40000, 'x'));
  TrainOptions o = options();
  o.max_seq_length = 50000;
  try {
    train_adapter(model, tokenizer, data, o);
    ADD_FAILURE() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("context"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace bumblebee
