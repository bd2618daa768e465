// Gradients through whole tiny models: the reference against differences of its own loss in f64, every device against
// the reference, and the laws that hold to the last bit.
#include "train/tape_pass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "tests/models/adapting.h"
#include "tests/support/tolerance.h"
#include "tests/train/training.h"

namespace bumblebee::train {
namespace {

using namespace testing_support;

struct Case {
  std::string name;
  TinyModel tiny;
  LoraOptions lora;
};

LoraOptions lora_of(FineTune type = FineTune::lora, int layers = -1, float dropout = 0) {
  LoraOptions options;
  options.type = type;
  options.rank = 3;
  options.scale = 2;
  options.num_layers = layers;
  options.dropout = dropout;
  return options;
}

std::vector<Case> cases() {
  TinyModel qwen3, llama, qwen2, mistral, quantized;
  llama.family = "llama";
  qwen2.family = "qwen2";
  qwen2.tied = true;
  mistral.family = "mistral";
  mistral.window = 5;
  TinyModel gemma3;
  gemma3.family = "gemma3";
  gemma3.tied = true;
  TinyModel olmo3, ministral3;
  olmo3.family = "olmo3";
  ministral3.family = "ministral3";
  quantized.format = Format::affine(4, 32, DType::bf16, DType::bf16);
  TinyModel small = quantized;
  small.family = "llama";
  LoraOptions some = lora_of();
  some.keys = {"self_attn.q_proj", "mlp.down_proj", "model.layers.0.self_attn.v_proj"};
  some.num_layers = 1;
  const auto moe = [](const char* family, const Format& format, bool normalised) {
    TinyModel tiny;
    tiny.family = family;
    tiny.format = format;
    tiny.experts = 4;
    tiny.of_row = 2;
    tiny.normalised = normalised;
    return tiny;
  };
  const Format dense = Format::dense(DType::f32);
  TinyModel apart = moe("mixtral", dense, true);
  apart.apart = true;
  LoraOptions stacks = lora_of(FineTune::lora, -1, 0.3f), attention = lora_of(FineTune::lora, 1),
              router = lora_of(FineTune::dora);
  stacks.keys = {"mlp.switch_mlp.up_proj", "mlp.switch_mlp.down_proj"};
  attention.keys = {"self_attn.v_proj"};
  router.keys = {"mlp.gate", "self_attn.k_proj"};
  const auto of = [](const char* family, int layers = 2, const Format& format = Format::dense(DType::f32)) {
    TinyModel tiny;
    tiny.family = family;
    tiny.layers = layers;
    tiny.format = format;
    tiny.experts = 4;
    tiny.of_row = 2;
    return tiny;
  };
  TinyModel near = of("gpt_oss");
  near.window = 5;
  LoraOptions gates = lora_of(FineTune::dora, -1, 0.3f), last = lora_of(FineTune::lora, 2), queries = lora_of();
  gates.keys = {"linear_attn.in_proj_a", "linear_attn.in_proj_b", "linear_attn.out_proj"};
  last.keys = {"self_attn.q_proj", "mlp.down_proj", "per_layer_projection"};
  queries.keys = {"self_attn.q_proj"};
  LoraOptions rs = lora_of();
  rs.rslora = true;
  return {{"qwen3", qwen3, lora_of()},
          {"llama", llama, lora_of()},
          {"qwen2_tied_bias", qwen2, lora_of()},
          {"mistral_window", mistral, lora_of()},
          {"gemma3", gemma3, lora_of()},
          {"olmo3", olmo3, lora_of()},
          {"ministral3", ministral3, lora_of()},
          {"glm4", of("glm4"), lora_of()},
          {"olmo3_dropout", olmo3, lora_of(FineTune::lora, -1, 0.3f)},
          {"qwen3_4bit", quantized, lora_of()},
          {"llama_4bit", small, lora_of()},
          {"rslora", small, rs},
          {"last_layer", quantized, lora_of(FineTune::lora, 1)},
          {"some_keys", quantized, some},
          {"dropout", quantized, lora_of(FineTune::lora, -1, 0.3f)},
          {"dora", quantized, lora_of(FineTune::dora)},
          {"qwen3_moe", moe("qwen3_moe", dense, true), lora_of()},
          {"qwen3_moe_4bit", moe("qwen3_moe", quantized.format, true), lora_of()},
          {"qwen2_moe", moe("qwen2_moe", dense, false), lora_of()},
          {"mixtral_apart", apart, lora_of()},
          {"experts_dropout", moe("qwen3_moe", quantized.format, true), stacks},
          {"beside_experts", moe("qwen2_moe", quantized.format, true), attention},
          {"router_dora", moe("qwen3_moe", quantized.format, false), router},
          {"granite", of("granite"), lora_of()},
          {"phi3", of("phi3"), lora_of()},
          {"smollm3", of("smollm3"), queries},
          {"gemma2", of("gemma2"), lora_of()},
          {"gemma2_4bit", of("gemma2", 2, quantized.format), lora_of(FineTune::lora, 1)},
          {"gemma4", of("gemma4", 4), lora_of()},
          {"gemma4_last_layers", of("gemma4", 4, quantized.format), last},
          {"gemma4_moe", of("gemma4_moe"), lora_of()},
          {"qwen3_5", of("qwen3_5", 4), lora_of()},
          {"qwen3_5_gates", of("qwen3_5", 2, quantized.format), gates},
          {"qwen3_next", of("qwen3_next"), lora_of()},
          {"qwen3_5_moe", of("qwen3_5_moe"), lora_of()},
          {"lfm2", of("lfm2"), lora_of()},
          {"gpt_oss", near, lora_of()},
          {"dora_bias_dropout", qwen2, lora_of(FineTune::dora, -1, 0.3f)}};
}

class Gradients : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(All, Gradients, testing::ValuesIn(cases()), [](const auto& p) { return p.param.name; });

/// dL/dvalue by Richardson's combination of two central differences. Values are f32, so the steps are those that f32
/// can take; the loss is f64.
double difference(Training& t, const Tensor& device, const std::vector<float>& values, size_t at) {
  GradOps& grad = *t.backend->stream().grad_ops();
  const auto slope = [&](float step) {
    std::vector<float> moved = values;
    double losses[2];
    float places[2];
    for (int side = 0; side < 2; ++side) {
      places[side] = moved[at] = values[at] + (side == 0 ? step : -step);
      grad.write_all(moved, {&device, 1});
      losses[side] = t.loss();
    }
    return (losses[0] - losses[1]) / (double(places[0]) - double(places[1]));
  };
  const float step = 0x1p-8f * std::max(std::abs(values[at]), 0x1p-4f);
  const double result = (4 * slope(step / 2) - slope(step)) / 3;
  grad.write_all(values, {&device, 1});
  return result;
}

TEST_P(Gradients, OfTheReferenceAreDifferencesOfItsLoss) {
  Training t(create_reference(), GetParam().tiny, GetParam().lora);
  t.stir(5);
  const std::vector<std::vector<float>> gradients = t.gradients_of_each(), values = t.values();
  Random random(11);
  int compared = 0;
  const auto hold = [&](const std::string& name, const Tensor& device, const std::vector<float>& value,
                        const std::vector<float>& gradient) {
    double squares = 0;
    for (const float g : gradient) squares += double(g) * double(g);
    const double size = std::sqrt(squares / double(gradient.size()));
    EXPECT_GT(size, 0) << name;
    for (int i = 0; i < 3; ++i) {
      const size_t at = size_t(random.integer(0, int(value.size()) - 1));
      const double want = difference(t, device, value, at), got = double(gradient[at]);
      // The gradient is read as f32. Richardson leaves the fifth derivative times step^4 (2^-32 at most, relative).
      EXPECT_NEAR(got, want, 4 * kRoundF32 * (std::abs(want) + size) + 1e-7 * size) << name << "[" << at << "]";
      ++compared;
    }
  };
  for (size_t i = 0; i < t.model->target_modules().size(); ++i) {
    const TrainedModule* site = t.params->at(int(i));
    if (site == nullptr) continue;
    const std::string& name = t.model->target_modules()[i].name;
    const size_t first = size_t(site->first);
    hold(name + ".lora_a", site->a, values[first], gradients[first]);
    hold(name + ".lora_b", site->b, values[first + 1], gradients[first + 1]);
    if (!site->m) continue;
    // The loss sees m only in the factor f = m/length: dL/df = dL/dm·m/f.
    const std::vector<float> factor = read_values(*t.backend->stream().grad_ops(), {&site->dora_scale, 1}).front();
    std::vector<float> by_factor = gradients[first + 2];
    for (size_t k = 0; k < factor.size(); ++k) by_factor[k] *= values[first + 2][k] / factor[k];
    hold(name + ".m", site->dora_scale, factor, by_factor);
  }
  EXPECT_GT(compared, 0);
}

TEST_P(Gradients, AreTheSameBitsWithLayersComputedTwice) {
  for (const Target& target : training(targets())) {
    Training t(target.create(), GetParam().tiny, GetParam().lora);
    t.stir(5);
    EXPECT_EQ(t.gradients(), t.gradients({.checkpoint_layers = true})) << target.name();
  }
}

TEST_P(Gradients, OfEveryDeviceAreTheReferences) {
  Training reference(create_reference(), GetParam().tiny, GetParam().lora);
  reference.stir(5);
  const std::vector<float> want = reference.gradients();
  const std::vector<double> exact(want.begin(), want.end());
  const double loss = reference.loss();
  for (const Target& target : training(targets())) {
    Training t(target.create(), GetParam().tiny, GetParam().lora);
    // Magnitudes begin as lengths that the device computed: let all begin with the same.
    t.params->write(reference.values());
    const std::vector<float> got = t.gradients();
    double error = 0, size = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      error += std::pow(double(got[i]) - exact[i], 2);
      size += exact[i] * exact[i];
    }
    const double relative = std::sqrt(error / size);
    if (target.options.fast) {
      // Activations are int8 with a second digit for the largest, gradients bf16: about 2^-8 for each of some ten
      // operations in a row.
      EXPECT_LT(relative, 0.1) << target.name();
      EXPECT_NEAR(t.loss(), loss, 0.02 * loss) << target.name();
    } else {
      // Some thirty operations in a row, sums of up to 96 products: 6·sqrt(96·30)·2^-24 = 2e-5.
      EXPECT_LT(relative, 1e-4) << target.name();
      EXPECT_NEAR(t.loss(), loss, 1e-5 * loss) << target.name();
    }
  }
}

Case case_of(const std::string& name) {
  const std::vector<Case> all = cases();
  return *std::find_if(all.begin(), all.end(), [&](const Case& c) { return c.name == name; });
}

TEST(TapePass, GradientsDoNotDependOnThreads) {
  for (const char* name : {"gemma3", "gemma4", "qwen3_5", "gpt_oss"}) {
    const Case some = case_of(name);
    for (const bool fast : {false, true}) {
      std::vector<std::vector<float>> results;
      for (const int threads : {1, 2, 3, 5}) {
        Training t(require_device("cpu", {}).entry->create({.threads = threads, .fast = fast, .instruction_set = {}}),
                   some.tiny, some.lora);
        t.stir(5);
        results.push_back(t.gradients());
        EXPECT_EQ(results.front(), results.back()) << name << ", " << threads;
      }
    }
  }
}

TEST(TapePass, ZeroBChangesNothingAndGivesANoGradient) {
  TinyModel tiny;
  Training t(create_reference(), tiny, lora_of());
  const double with = t.loss();
  t.params->hide(true);
  EXPECT_EQ(with, t.loss());
  t.params->hide(false);
  const std::vector<std::vector<float>> gradients = t.gradients_of_each();
  for (size_t i = 0; i < gradients.size(); ++i) {
    const bool zero = std::all_of(gradients[i].begin(), gradients[i].end(), [](float g) { return g == 0; });
    const std::string& name = t.params->parameters()[i].name;
    EXPECT_EQ(zero, name.ends_with("lora_a")) << name;
  }
}

TEST(TapePass, ABatchIsTheSumOfItsRows) {
  for (const char* name : {"qwen3", "gemma2", "gemma4", "qwen3_5", "gpt_oss"}) {
    const Case some = case_of(name);
    Training t(create_reference(), some.tiny, some.lora);
    t.stir(5);
    const std::vector<float> together = t.gradients();
    std::vector<double> sum(together.size());
    const auto rows = t.rows;
    const auto targets = t.targets;
    size_t first = 0;
    for (const auto& row : rows) {
      t.batch = batch_of({row});
      t.targets.assign(targets.begin() + int64_t(first), targets.begin() + int64_t(first + row.size()));
      first += row.size();
      const std::vector<float> alone = t.gradients();
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += double(alone[i]);
    }
    EXPECT_LT(relative_to_rms(together, sum), 1e-5) << name;
  }
}

TEST(TapePass, DropoutIsAnotherInEveryStepAndTheSameInTheSame) {
  TinyModel tiny;
  Training t(create_reference(), tiny, lora_of(FineTune::lora, -1, 0.5f));
  t.stir(5, 0.5);
  EXPECT_EQ(t.loss({.step = 1}), t.loss({.step = 1}));
  EXPECT_NE(t.loss({.step = 1}), t.loss({.step = 2}));
  EXPECT_NE(t.loss({.seed = 1}), t.loss({.seed = 2}));
  EXPECT_EQ(t.loss({.learn = false, .step = 1}), t.loss({.learn = false, .step = 2}));
}

lora::BoundAdapter bound(const lora::Adapter& adapter, const nn::Model& model) {
  return lora::bind_to_base(
      adapter, {.target_modules = model.target_modules(), .tied_head = model.dims().tied_head, .name = "tiny"});
}

TEST(TapePass, AFrozenAdapterUnderneathActsAsTwoTogether) {
  TinyModel tiny;
  const lora::Adapter below = models::random_adapter(tiny, {.rank = 2}, 9);
  Training t(create_reference(), tiny, lora_of());
  t.stir(5);
  const double alone = t.loss();
  t.params->freeze(bound(below, *t.model), 0.25f);
  EXPECT_GT(std::abs(t.loss() - alone), 1e-3);
  const std::vector<std::vector<float>> gradients = t.gradients_of_each(), values = t.values();
  Random random(2);
  for (size_t i = 0; i < t.model->target_modules().size(); ++i) {
    const TrainedModule* site = t.params->at(int(i));
    if (site == nullptr) continue;
    const std::vector<float>&value = values[size_t(site->first)], &gradient = gradients[size_t(site->first)];
    const size_t at = size_t(random.integer(0, int(value.size()) - 1));
    const double want = difference(t, site->a, value, at);
    double size = 0;
    for (const float g : gradient) size = std::max(size, std::abs(double(g)));
    EXPECT_NEAR(double(gradient[at]), want, 1e-6 * size) << t.model->target_modules()[i].name;
  }
}

/// Over several passes gradients add up as if each had been read back and added there: f32, and in f32 on the reference
/// too, so that a checkpoint between two of them holds all there is.
TEST(TapePass, GradientsAddUpFromPassToPass) {
  for (const bool reference : {true, false}) {
    const Case dora = case_of("dora");
    Training t(
        reference ? create_reference() : require_device("cpu", {}).entry->create({.threads = 2, .instruction_set = {}}),
        dora.tiny, dora.lora);
    t.stir(5);
    const std::vector<float> once = t.gradients();
    for (int pass = 0; pass < 2; ++pass) {
      TapePass again(*t.backend, *t.params, t.targets, {});
      again.forward(*t.model);
      again.backward();
    }
    std::vector<float> got;
    for (const auto& one : read_values(*t.backend->stream().grad_ops(), gradients_of(t.params->parameters())))
      got.insert(got.end(), one.begin(), one.end());
    std::vector<float> want = once;
    for (size_t i = 0; i < want.size(); ++i) want[i] = (want[i] + once[i]) + once[i];
    EXPECT_EQ(got, want);
  }
}

/// DoRA divides by lengths of rows of W + scale·BA, and gradients of magnitudes by magnitudes.
TEST(TapePass, DoraRefusesARowOfZerosByName) {
  const auto message = [](const auto& action) {
    try {
      action();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::bad_file);
      return std::string(error.what());
    }
    ADD_FAILURE() << "expected an error";
    return std::string();
  };
  const TinyModel tiny;
  for (const bool reference : {true, false}) {
    const auto device = [&] {
      return reference ? create_reference()
                       : require_device("cpu", {}).entry->create({.threads = 1, .instruction_set = {}});
    };
    MemoryWeights weights = tiny.weights();
    const auto backend = device();
    nn::Loader load(weights, backend.get());
    const auto model = models::make_model(models::read_spec(tiny.config(), "tiny"), load);
    LoraParams fine(*backend, *model, lora_of(FineTune::dora), 3);
    lora::Adapter adapter = fine.adapter("given", "");
    adapter.modules.at("model.layers.1.mlp.down_proj").low_rank->magnitude[5] = 0;
    const std::string given = message([&] { fine.begin_with(adapter); });
    EXPECT_NE(given.find("'model.layers.1.mlp.down_proj'"), std::string::npos) << given;
    EXPECT_NE(given.find("row 5"), std::string::npos) << given;

    weights.rewind();
    const HostWeight down = weights.matrix("model.layers.1.mlp.down_proj", tiny.d_model, tiny.d_ff);
    const size_t row = down.codes.size() / size_t(tiny.d_model);
    std::fill_n(const_cast<std::byte*>(down.codes.data()) + 3 * row, row, std::byte{0});
    const std::string zero = message([&] { LoraParams(*backend, *model, lora_of(FineTune::dora), 3); });
    EXPECT_NE(zero.find("'model.layers.1.mlp.down_proj'"), std::string::npos) << zero;
    EXPECT_NE(zero.find("row 3"), std::string::npos) << zero;
    EXPECT_GT(LoraParams(*backend, *model, lora_of(), 3).modules(), 0);
  }
}

/// mlx-lm names the modules of a model that sees after its own part for text.
TEST(TapePass, BeginsWithFactorsUnderNamesOfAPackagedModel) {
  TinyModel tiny;
  Training t(create_reference(), tiny, lora_of());
  const lora::Adapter plain = t.params->adapter("plain", "");
  lora::Adapter packaged = plain;
  packaged.modules.clear();
  for (const auto& [path, change] : plain.modules) {
    lora::ModuleDelta& to = packaged.modules["language_model." + path] = change;
    for (float& value : to.low_rank->a.values) value += 0.25f;
  }
  t.params->begin_with(packaged);
  for (const auto& [path, change] : t.params->adapter("begun", "").modules)
    EXPECT_EQ(change, packaged.modules.at("language_model." + path)) << path;
}

TEST(TapePass, RefusesToTrainOnTopOfWhatItCannotUndo) {
  TinyModel tiny;
  Training t(create_reference(), tiny, lora_of());
  for (const models::AdapterOptions& options :
       {models::AdapterOptions{.dora = true}, {.inner_bias = true}, {.full = true}, {.norms = true}, {.head = true}}) {
    try {
      const lora::Adapter below = models::random_adapter(tiny, options, 9);
      t.params->freeze(bound(below, *t.model), 1);
      ADD_FAILURE() << "expected an error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::unsupported) << error.what();
    }
  }
}

}  // namespace
}  // namespace bumblebee::train
