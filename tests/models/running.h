// A model on a backend with a paged cache, driven the way an engine does it but by hand: what the model tests share.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "exec/slots.h"
#include "models/registry.h"
#include "nn/infer_pass.h"
#include "tests/support/backends.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tolerance.h"

namespace bumblebee::models {

/// What this machine can run, the reference and its replay included; and those of them that round no activations.
std::vector<testing_support::Target> every_target();
std::vector<testing_support::Target> exact_targets();

/// The first operation that a model needs and a backend lacks, by its name; empty: there is none.
std::string lacked(const std::string& backend, const ModelSpec& spec, WeightSource& source);
std::string lacked(const std::string& backend, const testing_support::TinyModel& tiny);

std::vector<int32_t> random_tokens(uint64_t seed, int count, int vocab);

/// Some tokens of one sequence in a batch.
struct Chunk {
  int sequence = 0;
  std::vector<int32_t> tokens;
  int32_t slot = -1;  // of adapters
  Batch::Want want = Batch::Want::all;
};

class Runner {
 public:
  struct Options {
    DType kv = DType::f32;
    int page_size = 16, pages = 64, states = 64;
    uint64_t page_seed = 1;  // order in which pages are handed out
  };
  Runner(std::unique_ptr<Backend> backend, const ModelSpec& spec, WeightSource& source, const Options& options);
  Runner(std::unique_ptr<Backend> backend, const testing_support::TinyModel& tiny, const Options& options);

  ~Runner();

  /// One packed step; logits of the rows that are wanted, by chunk: [rows, vocab] each.
  std::vector<std::vector<float>> step(const std::vector<Chunk>& chunks);
  /// The same for one sequence, showing every intermediate.
  using Tap = std::function<void(const std::string& name, const std::vector<float>& values)>;
  void tapped(const Chunk& chunk, const Tap& tap);

  const nn::Model& model() const { return *model_; }
  Backend& backend() { return *backend_; }
  /// For chunks with a slot.
  exec::Slots& slots() { return *slots_; }

 private:
  struct Sequence {
    int past = 0, steps = 0;
    std::vector<int32_t> pages;
    std::array<int32_t, 2> states = {-1, -1};
  };
  void append(Batch& batch, const Chunk& chunk);

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<nn::Model> model_;
  std::unique_ptr<KvStore> kv_;
  std::unique_ptr<exec::Slots> slots_;
  Options options_;
  std::vector<int32_t> free_;
  int32_t next_state_ = 0;
  std::map<int, Sequence> sequences_;
};

/// Bit for bit, or within what kinds of rows may differ by.
inline void expect_same_rows(const testing_support::Target& target, int layers, const std::vector<float>& got,
                             const std::vector<float>& want, const std::string& what, double sharpness = 1) {
  const double allowed = testing_support::between_kinds_of_rows(target, layers, sharpness);
  if (allowed == 0) {
    EXPECT_EQ(got, want) << what;
  } else {
    EXPECT_LE(testing_support::relative_to_rms(got, std::vector<double>(want.begin(), want.end())), allowed) << what;
  }
}

}  // namespace bumblebee::models
