// Ten losses and the first gradients against mlx-lm's trainer and against transformers with peft in float64
// (tools/goldens/training.py): rows, order, factors and optimizer are the golden's.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>

#include "base/error.h"
#include "io/checkpoint.h"
#include "models/registry.h"
#include "tests/support/backends.h"
#include "tests/support/golden_file.h"
#include "tests/support/replay_backend.h"
#include "tests/support/tolerance.h"
#include "tests/train/optimizer_cases.h"
#include "train/optimizer.h"
#include "train/tape_pass.h"

namespace bumblebee::train {
namespace {

using namespace testing_support;

struct Learning {
  Batch batch;
  std::vector<int32_t> targets;
  int scored = 0;
};

class Learner {
 public:
  Learner(const std::string& name, std::unique_ptr<Backend> device)
      : golden_("training/" + name + "/golden.safetensors"), backend_(std::move(device)) {
    const Json cases = training_json("cases.json");
    const Json& one = cases.at(name);
    checkpoint_ = Checkpoint::open(golden_path(one.at("base").get<std::string>()));
    nn::Loader load(*checkpoint_, backend_.get());
    model_ = models::make_model(models::read_spec(checkpoint_->config().text(), name), load);
    LoraOptions lora;
    lora.type = one.at("kind") == "dora" ? FineTune::dora : FineTune::lora;
    lora.rank = one.at("rank").get<int>();
    lora.scale = one.at("scale").get<float>();
    lora.rslora = one.at("rslora").get<bool>();
    lora.num_layers = one.at("num_layers").get<int>();
    lora.keys = one.at("keys").get<std::vector<std::string>>();
    params_ = std::make_unique<LoraParams>(*backend_, *model_, lora, 0);
    std::vector<std::vector<float>> values;
    for (const Parameter& p : params_->parameters()) values.push_back(stored(p, ""));
    params_->write(values);
    OptimizerOptions optimizer;
    optimizer.kind = kind_of(one.at("optimizer").get<std::string>());
    if (one.at("bias_correction").get<bool>()) optimizer.bias_correction = true;
    optimizer_ = make_optimizer(optimizer, *backend_);
    rate_ = one.at("learning_rate").get<float>();
    batch_size_ = one.at("batch_size").get<int>();
  }

  /// A golden of this parameter, transposed as it is stored here.
  std::vector<float> stored(const Parameter& p, const std::string& prefix) const {
    const GoldenTensor& tensor = golden_.at(prefix + p.name);
    const std::vector<float> values = tensor.floats();
    if (!p.transposed) return values;
    std::vector<float> transposed(values.size());
    for (int r = 0; r < tensor.rows(); ++r) {
      for (int c = 0; c < tensor.cols(); ++c)
        transposed[size_t(c * tensor.rows() + r)] = values[size_t(r * tensor.cols() + c)];
    }
    return transposed;
  }

  Learning batch(int number) const {
    const std::vector<int32_t> tokens = golden_.at("tokens").ints(), lengths = golden_.at("lengths").ints(),
                               offsets = golden_.at("offsets").ints();
    Learning learning;
    size_t first = 0;
    for (int row = 0; row < int(lengths.size()); ++row) {
      const int length = lengths[size_t(row)];
      const auto begin = tokens.begin() + int64_t(first);
      first += size_t(length);
      if (row / batch_size_ != number) continue;
      learning.batch.append(std::vector<int32_t>{begin, begin + length - 1}, 0, std::vector<int32_t>{0},
                            Batch::Want::none);
      for (int i = 1; i < length; ++i) {
        const bool scored = i >= offsets[size_t(row)];
        learning.targets.push_back(scored ? begin[i] : -1);
        learning.scored += scored;
      }
    }
    return learning;
  }

  double step(int number) {
    const Learning learning = batch(number);
    backend_->stream().bind(learning.batch, nullptr);
    TapePass pass(*backend_, *params_, learning.targets, {});
    const double loss = pass.forward(*model_) / learning.scored;
    clear_gradients(*backend_->stream().grad_ops(), params_->parameters());
    pass.backward();
    scale_gradients(*backend_->stream().grad_ops(), params_->parameters(), 1 / float(learning.scored));
    return loss;
  }
  void update() {
    optimizer_->update(params_->parameters(), rate_);
    params_->refresh();
  }

  const GoldenFile golden_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<nn::Model> model_;
  std::unique_ptr<LoraParams> params_;
  std::unique_ptr<Optimizer> optimizer_;
  float rate_ = 0;
  int batch_size_ = 0;
};

std::vector<std::string> run_names() {
  std::vector<std::string> names;
  const Json cases = training_json("cases.json");
  for (const auto& [name, value] : cases.items()) names.push_back(name);
  return names;
}

std::vector<Target> exact_targets() {
  testing_support::register_replay_backend();
  std::vector<Target> list = {{"ref", {.threads = 1, .fast = false, .instruction_set = "scalar"}},
                              {"replay", {.threads = 1, .fast = false, .instruction_set = "scalar"}}};
  for (const Target& target : training(targets())) {
    if (!target.options.fast) list.push_back(target);
  }
  return list;
}

class Golden : public testing::TestWithParam<std::tuple<Target, std::string>> {};
INSTANTIATE_TEST_SUITE_P(All, Golden,
                         testing::Combine(testing::ValuesIn(exact_targets()), testing::ValuesIn(run_names())),
                         [](const auto& p) { return std::get<0>(p.param).name() + "_" + std::get<1>(p.param); });

TEST_P(Golden, GradientsAndTenLossesMatch) {
  const auto& [target, name] = GetParam();
  Learner run(name, target.create());
  const std::vector<int32_t> order = run.golden_.at("order").ints();
  const std::vector<double> losses = run.golden_.at("losses").doubles();
  ASSERT_EQ(losses.size(), 10u);
  // mlx-lm computes in f32, as the f32 devices do; peft and ref in f64 but for factors and angles.
  const bool single = target.backend == "cpu" || name.starts_with("mlx");
  for (size_t i = 0; i < losses.size(); ++i) {
    const double loss = run.step(order[i]);
    // Roundings of the first pass; then those of gradients, which Adam divides by their own size: where one is near
    // zero its sign is anybody's, and with it a step of the rate.
    EXPECT_NEAR(loss, losses[i], (single ? 2e-6 + 2e-5 * double(i) : 1e-6 + 2e-6 * double(i)) * losses[i]) << i;
    if (i == 0) {
      const std::vector<Parameter>& parameters = run.params_->parameters();
      const auto gradients = read_values(*run.backend_->stream().grad_ops(), gradients_of(parameters));
      for (size_t p = 0; p < parameters.size(); ++p) {
        const std::vector<float> want = run.stored(parameters[p], "gradient.");
        const std::vector<double> exact(want.begin(), want.end());
        EXPECT_LT(relative_to_rms(gradients[p], exact), single ? 2e-4 : 2e-5) << parameters[p].name;
      }
    }
    run.update();
  }
}

TEST(Goldens, AreAllThere) { EXPECT_GE(run_names().size(), 17u); }

}  // namespace
}  // namespace bumblebee::train
