// Loading, page tables and steps.
#include "tests/models/running.h"

namespace bumblebee::models {

using namespace testing_support;

Runner::Runner(std::unique_ptr<Backend> backend, const ModelSpec& spec, WeightSource& source, const Options& options)
    : backend_(std::move(backend)), options_(options), free_(Random(options.page_seed).permutation(options.pages)) {
  nn::Loader load(source, backend_.get());
  model_ = make_model(spec, load);
  const nn::ModelDims& d = model_->dims();
  kv_ = backend_->make_kv({.layers = d.layers,
                           .kv_heads = d.kv_heads,
                           .head_dim = d.head_dim,
                           .page_size = options.page_size,
                           .pages = options.pages,
                           .dtype = options.kv});
}

Runner::Runner(std::unique_ptr<Backend> backend, const TinyModel& tiny, const Options& options)
    : Runner(std::move(backend), read_spec(tiny.config(), "tiny"), *std::make_unique<MemoryWeights>(tiny.weights()),
             options) {}

void Runner::append(Batch& batch, const Chunk& chunk) {
  Sequence& s = sequences_[chunk.sequence];
  const int total = s.past + int(chunk.tokens.size());
  while (int(s.pages.size()) * options_.page_size < total) {
    BB_CHECK(!free_.empty(), "the test needs more pages");
    s.pages.push_back(free_.back());
    free_.pop_back();
  }
  batch.append(chunk.tokens, s.past, s.pages, Batch::Want::all, chunk.slot);
  s.past = total;
}

std::vector<std::vector<float>> Runner::step(const std::vector<Chunk>& chunks) {
  Batch batch;
  for (const Chunk& chunk : chunks) append(batch, chunk);
  backend_->bind(batch, kv_.get());
  Tensor logits;
  backend_->run({batch.rows(), int(batch.wanted.size()), batch.has_adapters()}, [&] {
    nn::InferPass pass(*backend_, *kv_, batch, lora_);
    logits = model_->forward(pass);
  });
  const size_t vocab = size_t(model_->dims().vocab);
  std::vector<float> all(size_t(batch.rows()) * vocab);
  backend_->read(logits, all);
  std::vector<std::vector<float>> by_chunk;
  auto next = all.begin();
  for (const Chunk& chunk : chunks) {
    const auto end = next + int64_t(chunk.tokens.size() * vocab);
    by_chunk.emplace_back(next, end);
    next = end;
  }
  return by_chunk;
}

void Runner::tapped(const Chunk& chunk, const Tap& tap) {
  Batch batch;
  append(batch, chunk);
  backend_->bind(batch, kv_.get());
  backend_->run({batch.rows(), int(batch.wanted.size()), false}, [&] {
    nn::TapPass pass(*backend_, *kv_, batch, [&](const std::string& name, const Tensor& value) {
      std::vector<float> values(size_t(value.rows()) * size_t(value.cols()));
      backend_->read(value, values);
      tap(name, values);
    });
    model_->forward(pass);
  });
}

}  // namespace bumblebee::models
