// Choosing tokens of rows of logits: the settings that models come with, over a real vocabulary. Rows are in the
// caches; in a step the product that made them leaves them there too.
#include "machine.h"

#include <cmath>

namespace bumblebee::bench {
namespace {

/// As a model gives them: most near zero, a few that matter.
std::vector<float> model_logits(int rows, int vocab) {
  std::vector<float> logits(size_t(rows) * size_t(vocab));
  uint64_t state = 88172645463325252u;
  const auto uniform = [&state] {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (double(state >> 11) + 0.5) * 0x1p-53;
  };
  for (float& v : logits) v = float(3 * std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform()));
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < 40; ++i)
      logits[size_t(r) * size_t(vocab) + size_t(uniform() * vocab)] = float(14 + 8 * uniform());
  }
  return logits;
}

}  // namespace

void register_sample(Size size) {
  using Mode = SampleRow::Mode;
  const std::pair<const char*, SampleRow> settings[] = {
      {"greedy", {.mode = Mode::greedy}},
      {"greedy_logprobs5", {.mode = Mode::greedy, .logprob = true, .top_logprobs = 5}},
      {"temperature", {.mode = Mode::draw, .temperature = 0.7}},
      {"temperature_logprobs5", {.mode = Mode::draw, .logprob = true, .top_logprobs = 5, .temperature = 0.7}},
      {"top_k20_top_p0.8", {.mode = Mode::draw, .top_k = 20, .top_p = 0.8, .temperature = 0.7}},
      {"top_p0.95", {.mode = Mode::draw, .top_p = 0.95}},
      {"min_p0.05", {.mode = Mode::draw, .min_p = 0.05}}};
  const int vocab = size == Size::full ? 151936 : 1000;
  for (const auto& [name, setting] : settings) {
    for (const int rows : {1, 16}) {
      add("sampler/" + std::string(name) + "/rows" + std::to_string(rows),
          [vocab, rows, row = setting](benchmark::State& state) {
            const std::unique_ptr<Backend> backend = make_backend(false);
            Batch batch;
            batch.append(std::vector<int32_t>(size_t(rows), 0), 0, std::vector<int32_t>{0}, Batch::Want::all);
            batch.sample.assign(size_t(rows), row);
            for (int r = 0; r < rows; ++r) batch.sample[size_t(r)].seed = uint64_t(r);
            const Tensor logits = backend->upload(model_logits(rows, vocab), rows, vocab);
            for (auto _ : state) {
              for (SampleRow& s : batch.sample) ++s.draw;
              backend->stream().bind(batch, nullptr);
              const Sampled out = backend->stream().ops().sample(logits);
              benchmark::DoNotOptimize(out);
            }
            report(state, {.bytes = 4.0 * rows * vocab});
          });
    }
  }
}

}  // namespace bumblebee::bench
