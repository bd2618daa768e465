// BB_OPERATIONS random loads, replaces and unloads of adapters while requests run: every answer equals its solo answer
// bit for bit, and memory ends where it began. The same source is the quick test, the slow one and ThreadSanitizer's.
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "api/adapter_state.h"
#include "api/model_state.h"
#include "base/error.h"
#include "bumblebee/benchmark.h"
#include "bumblebee/generation.h"

namespace bumblebee::engine {
namespace {

const Repository kModel = local(BB_TEST_DATA "/apps/tiny");
constexpr int kVersions = 16, kNames = 6, kPrompts = 5, kClients = 3;

Model load(uint64_t max_adapter_bytes) {
  ModelOptions options;
  options.threads = 1;
  options.max_adapter_bytes = max_adapter_bytes;
  return load_model(kModel, options);
}

/// Versions of every kind: factors of all ranks, DoRA, whole weights.
std::vector<Adapter> make_versions(const Model& model) {
  std::vector<Adapter> versions;
  for (int i = 0; i < kVersions; ++i) {
    lora::Adapter adapter = *random_adapter(model, 1 + i, uint64_t(i) + 1).state()->adapter;
    lora::set_scale(adapter, 60);
    for (auto& [path, change] : adapter.modules) {
      const size_t out = size_t(change.low_rank->b.rows);
      if (i % 4 == 1) change.low_rank->magnitude.assign(out, 0.4f);
      if (i % 4 == 2) change.low_rank->b_bias.assign(out, 0.01f);
      if (i % 8 == 3 && path.ends_with("o_proj")) {
        change.weight = lora::Matrix{int(out), change.low_rank->a.cols,
                                     std::vector<float>(out * size_t(change.low_rank->a.cols), 0.02f)};
        change.low_rank.reset();
      }
    }
    versions.push_back(api::make_adapter(std::move(adapter)));
  }
  return versions;
}

/// What a request asks for, by version; the second may be none.
struct Question {
  int prompt = 0, first = 0, second = -1;
  auto operator<=>(const Question&) const = default;
};

bool weighable(int version) { return version % 4 == 0 || version % 4 == 2; }

text::Input input_of(const Question& question, const std::vector<Adapter>& versions) {
  text::Input input;
  for (int i = 0; i <= question.prompt * 3; ++i) input.tokens.push_back(65 + (question.prompt * 7 + i * 5) % 50);
  if (question.first >= 0) input.adapters.push_back({versions[size_t(question.first)]});
  if (question.second >= 0) input.adapters.push_back({versions[size_t(question.second)], 0.5f});
  return input;
}

text::Generation serving(const Model& model, int batch) {
  GenerationConfig config;
  config.max_new_tokens = 6;
  config.logprobs = true;
  text::GenerationOptions options;
  options.limits = {.batch_size = batch, .sequence_length = 64};
  options.prefill_chunk = 7;
  return text::generation(model, load_tokenizer(kModel), config, options);
}

/// Answers of a model of its own, one request at a time.
class Oracle {
 public:
  explicit Oracle(const std::vector<Adapter>& versions) : versions_(versions), serving_(serving(load(0), 1)) {}
  text::Result answer(const Question& question) {
    const std::lock_guard lock(mutex_);
    const auto found = answers_.find(question);
    if (found != answers_.end()) return found->second;
    return answers_[question] = serving_.run(input_of(question, versions_));
  }

 private:
  const std::vector<Adapter>& versions_;
  std::mutex mutex_;
  text::Generation serving_;
  std::map<Question, text::Result> answers_;
};

bool same(const text::Result& a, const text::Result& b) {
  if (a.tokens != b.tokens || a.logprobs.size() != b.logprobs.size()) return false;
  for (size_t i = 0; i < a.logprobs.size(); ++i) {
    if (a.logprobs[i].logprob != b.logprobs[i].logprob) return false;
  }
  return true;
}

TEST(AdaptersStress, LoadsReplacesAndUnloadsUnderGeneration) {
  uint64_t largest = 0;
  std::vector<Adapter> versions;
  {
    const Model measure = load(0);
    versions = make_versions(measure);
    for (const Adapter& version : versions) {
      measure.prepare_adapters({{version}});
      largest = std::max(largest, measure.adapter_memory().bytes);
      measure.unload_adapter(version);
      ASSERT_EQ(measure.adapter_memory().bytes, 0u);
    }
  }
  // Every client may hold two, the loader one more, and each may be packing: the rest is for those that nobody uses,
  // and some of them must leave now and then.
  const Model model = load(largest * (2 * kClients + 2 + kClients));
  Oracle oracle(versions);
  const text::Generation busy = serving(model, kClients + 1), other = serving(model, 2);

  std::mutex mutex;  // of the names
  std::vector<int> names;
  for (int i = 0; i < kNames; ++i) names.push_back(i);
  std::atomic<bool> done{false};
  std::atomic<int> answered{0}, wrong{0};
  std::vector<std::thread> clients;
  for (int client = 0; client < kClients; ++client) {
    clients.emplace_back([&, client] {
      std::mt19937 random{unsigned(client) + 7};
      const auto pick = [&](int below) { return int(random() % unsigned(below)); };
      while (!done.load()) {
        Question question{.prompt = pick(kPrompts)};
        {
          const std::lock_guard lock(mutex);
          question.first = pick(5) == 0 ? -1 : names[size_t(pick(kNames))];
          const int second = names[size_t(pick(kNames))];
          if (weighable(second) && second != question.first && (question.first < 0 || weighable(question.first)))
            question.second = second;
        }
        const text::Generation& asked = pick(3) == 0 ? other : busy;
        const text::Result got = asked.run(input_of(question, versions));
        if (!same(got, oracle.answer(question))) ++wrong;
        ++answered;
      }
    });
  }

  std::mt19937 random(1);
  const auto pick = [&](int below) { return int(random() % unsigned(below)); };
  for (int i = 0; i < BB_OPERATIONS; ++i) {
    const int version = pick(kVersions), name = pick(kNames);
    switch (pick(3)) {
      case 0: model.prepare_adapters({{versions[size_t(version)]}}); break;
      case 1: {  // replace
        model.prepare_adapters({{versions[size_t(version)]}});
        int old = version;
        {
          const std::lock_guard lock(mutex);
          std::swap(old, names[size_t(name)]);
        }
        model.unload_adapter(versions[size_t(old)]);
        break;
      }
      default: model.unload_adapter(versions[size_t(version)]);
    }
    ASSERT_LE(model.adapter_memory().bytes, model.adapter_memory().limit);
    while (answered.load() * 4 < i) std::this_thread::yield();  // generation keeps up: one answer per 4 operations
  }
  done = true;
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_GE(answered.load(), BB_OPERATIONS / 4 - 1);
  for (const Adapter& version : versions) model.unload_adapter(version);
  EXPECT_EQ(model.adapter_memory().bytes, 0u);
  EXPECT_EQ(model.adapter_memory().adapters, 0);
  EXPECT_EQ(model.state()->device->slots_in_use(), 0);
}

}  // namespace
}  // namespace bumblebee::engine
