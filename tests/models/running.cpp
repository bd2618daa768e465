// Loading, page tables and steps.
#include "tests/models/running.h"

#include "nn/tap_pass.h"
#include "tests/support/random.h"
#include "tests/support/replay_backend.h"

namespace bumblebee::models {

using namespace testing_support;

std::vector<Target> every_target() {
  register_replay_backend();
  std::vector<Target> list = {{"ref", {.threads = 1, .fast = false, .instruction_set = "scalar"}},
                              {"replay", {.threads = 1, .fast = false, .instruction_set = "scalar"}}};
  for (const Target& target : targets()) list.push_back(target);
  return list;
}

std::vector<Target> exact_targets() {
  std::vector<Target> list = every_target();
  std::erase_if(list, [](const Target& target) { return target.options.fast; });
  return list;
}

std::string lacked(const std::string& backend, const ModelSpec& spec, WeightSource& source) {
  nn::Loader plan(source, nullptr);
  make_model(spec, plan);
  for (const Operation operation : plan.operations()) {
    if (lacks(backend, operation)) return name_of(operation);
  }
  return "";
}

std::string lacked(const std::string& backend, const TinyModel& tiny) {
  if (require_device(backend, {}).entry->lacking.empty()) return "";
  MemoryWeights weights = tiny.weights();
  return lacked(backend, read_spec(tiny.config(), "tiny"), weights);
}

std::vector<int32_t> random_tokens(uint64_t seed, int count, int vocab) {
  Random random(seed);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& t : tokens) t = random.integer(0, vocab - 1);
  return tokens;
}

Runner::Runner(std::unique_ptr<Backend> backend, const ModelSpec& spec, WeightSource& source, const Options& options)
    : backend_(std::move(backend)), options_(options), free_(Random(options.page_seed).permutation(options.pages)) {
  nn::Loader load(source, backend_.get());
  model_ = make_model(spec, load);
  slots_ = std::make_unique<exec::Slots>(*backend_, model_->target_modules());
  KvShape shape = model_->dims().kv_shape(options.page_size, options.pages, options.kv);
  if (state_bytes(shape) > 0) shape.states = options.states;
  kv_ = backend_->make_kv(shape);
}

Runner::Runner(std::unique_ptr<Backend> backend, const TinyModel& tiny, const Options& options)
    : Runner(std::move(backend), read_spec(tiny.config(), "tiny"), *std::make_unique<MemoryWeights>(tiny.weights()),
             options) {}

Runner::~Runner() { backend_->stream().forget(this); }

void Runner::append(Batch& batch, const Chunk& chunk) {
  Sequence& s = sequences_[chunk.sequence];
  const int total = s.past + int(chunk.tokens.size());
  while (int(s.pages.size()) * options_.page_size < total) {
    BB_CHECK(!free_.empty(), "the test needs more pages");
    s.pages.push_back(free_.back());
    free_.pop_back();
  }
  // States take turns between two places, but for every third step, which goes on in place.
  StateSlots state;
  if (kv_->shape().states > 0) {
    if (s.states[0] < 0) s.states = {next_state_++, next_state_++};
    BB_CHECK(next_state_ <= options_.states, "the test needs more states");
    state.from = s.past > 0 ? s.states[0] : -1;
    if (++s.steps % 3 != 0) std::swap(s.states[0], s.states[1]);
    state.to = s.states[0];
  }
  batch.append(chunk.tokens, s.past, s.pages, chunk.want, chunk.slot, state);
  // Who tests such sequences knows that what was cached of shorter ones is of no use.
  const int beyond = model_->dims().stretch_beyond;
  batch.segments.back().stretched = beyond > 0 && total > beyond;
  s.past = total;
}

std::vector<std::vector<float>> Runner::step(const std::vector<Chunk>& chunks) {
  Batch batch;
  for (const Chunk& chunk : chunks) append(batch, chunk);
  const int rows = batch.rows();
  Stream& stream = backend_->stream();
  const int wanted = int(batch.logit_rows.size());
  const bool alone = batch.rows_are_alone();
  batch.pad(stream.bucket(rows, alone), wanted > 0 ? stream.bucket(wanted, alone) : 0);
  const LoraShape& lora = slots_->shape(batch.slot);
  stream.bind(batch, kv_.get());
  const StepKey key{
      .program = this, .rows = batch.rows(), .logit_rows = int(batch.logit_rows.size()), .adapters = lora.id};
  const StepOutputs outputs = stream.run(key, [&] {
    nn::InferPass pass(stream.ops(), *kv_, {.lora = &lora, .logits = wanted > 0});
    return StepOutputs{.logits = model_->forward(pass), .hidden = {}, .sampled = {}};
  });
  const size_t vocab = size_t(model_->dims().vocab);
  std::vector<float> all(batch.logit_rows.size() * vocab);
  if (wanted > 0) read_floats(*stream.fetch(outputs.logits), all);
  std::vector<std::vector<float>> by_chunk;
  auto next = all.begin();
  for (const Chunk& chunk : chunks) {
    const size_t rows_of_chunk = chunk.want == Batch::Want::all    ? chunk.tokens.size()
                                 : chunk.want == Batch::Want::last ? 1
                                                                   : 0;
    const auto end = next + int64_t(rows_of_chunk * vocab);
    by_chunk.emplace_back(next, end);
    next = end;
  }
  return by_chunk;
}

void Runner::tapped(const Chunk& chunk, const Tap& tap) {
  Batch batch;
  append(batch, chunk);
  Stream& stream = backend_->stream();
  stream.bind(batch, kv_.get());
  stream.run({}, [&] {
    nn::TapPass pass(stream.ops(), *kv_, [&](const std::string& name, const Tensor& value) {
      std::vector<float> values(size_t(value.rows()) * size_t(value.cols()));
      backend_->read(value, values);
      tap(name, values);
    });
    model_->forward(pass);
    return StepOutputs();
  });
}

}  // namespace bumblebee::models
