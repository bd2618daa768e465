// Claims a checkpoint's tensors by their Hugging Face names, checks shapes on the way and puts them on a backend.
// finish() throws on anything that nobody claimed, so that a model never runs with half of its weights.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "base/function_ref.h"
#include "nn/layers.h"
#include "nn/model.h"
#include "quant/weight_source.h"

namespace bumblebee::nn {

class Loader {
 public:
  /// Called after each tensor with the bytes claimed so far; may throw to cancel.
  using Progress = std::function<void(uint64_t bytes)>;

  /// With a null `backend` everything is claimed and checked and nothing is read: how a checkpoint is inspected.
  Loader(WeightSource& source, Backend* backend, Progress progress = nullptr);

  /// A linear that adapters may attach to; `with_bias` claims `<path>.bias` too.
  Linear linear(const std::string& path, int out, int in, bool with_bias);
  /// The linear [experts, in] whose rows of scores choose experts.
  Linear router(const std::string& path, int experts, int in, bool with_bias = false);
  /// One matrix [out, in] for each of `experts`, either stacked in `stack` or apart in `each`(0) and so on. Throws
  /// Error(bad_file) when the formats of those differ.
  ExpertLinear experts(const std::string& stack, FunctionRef<std::string(int)> each, int experts, int out, int in);
  /// One vector [out] for each expert, under `stack`.bias, to be added to what their matrices give.
  void expert_bias(ExpertLinear& linear, int experts, int out);
  /// The stack `path` [heads, out, in].
  HeadLinear heads(const std::string& path, int heads, int out, int in);
  /// The matrix `path` [heads·(first + second), in] as two: of each head the `first` rows, transposed, and the `second`
  /// rows after them. They keep the file's bytes; `names` are what they are shown as and what adapters call them,
  /// beside `path`.
  std::pair<HeadLinear, HeadLinear> split_heads(const std::string& path, int heads, int first, int second, int in,
                                                std::pair<std::string, std::string> names);
  /// `offset` is added to the stored weight.
  RmsNorm rms_norm(const std::string& path, int size, double eps, float offset = 0);
  /// A norm without a weight; `name` is shown, nothing is claimed.
  RmsNorm plain_norm(const std::string& name, int size, double eps);
  /// f32 [1, size], and one number: 1 without a backend.
  Tensor vector(const std::string& name, int size);
  float scalar(const std::string& name);
  /// The convolution of module `path`, with weights of its own for each column; `by_torch`: stored as [cols, 1,
  /// kernel].
  ConvParams depthwise(const std::string& path, int cols, int kernel, bool& by_torch);
  Embedding embedding(const std::string& path, int vocab, int d_model);
  /// The output matrix: `lm_head`, or the embedding's table when `tied`. A stray `lm_head.weight` of a tied model is
  /// dropped, as mlx-lm does.
  Linear head(const std::string& path, const Embedding& embedding, int vocab, int d_model, bool tied);
  void ignore(const std::string& name) { source_.ignore(name); }
  void leave_out(const std::string& prefix) { source_.leave_out(prefix); }
  bool has(const std::string& name) const { return source_.has(name); }
  bool has_module(const std::string& path) const { return source_.has_module(path); }

  /// Throws Error(bad_file) listing tensors that nobody claimed.
  void finish() const;
  const std::vector<TargetModule>& target_modules() const { return target_modules_; }
  /// In the order of target_modules(); empty for norms, and without a backend not packed.
  const std::vector<Weight>& target_weights() const { return target_weights_; }
  /// Notes that the model needs it; experts() says so by itself.
  void need(Operation operation);
  /// What the model needs beside what every device has, without repeats.
  const std::vector<Operation>& operations() const { return operations_; }
  /// Formats of all matrices claimed so far, without repeats: what a device must be able to multiply by.
  const std::vector<Format>& formats() const { return formats_; }

 private:
  Weight matrix(const std::string& path, int out, int in);
  Weight matrix(const std::string& path, const HostWeight& host, int out, int in);
  Weight pack(const HostWeight& host);
  Tensor packed_vector(const HostWeight& host);
  HeadLinear stacked(std::span<const HostWeight> heads, bool transposed, const std::string& name);
  void add_heads(HeadLinear& linear, int heads, int in, int out);
  Tensor pack_floats(const std::string& name, std::span<const float> values);
  void count(const HostWeight& weight);

  /// Where an embedding's table lies, if it does not only lie there to be packed.
  struct Table {
    std::string path;
    std::array<std::span<const std::byte>, 3> parts;
    std::weak_ptr<const void> owner;
  };

  WeightSource& source_;
  Backend* backend_;
  Progress progress_;
  uint64_t bytes_ = 0;
  std::vector<TargetModule> target_modules_;
  std::vector<Weight> target_weights_;
  std::vector<Format> formats_;
  std::vector<Operation> operations_;
  std::vector<Table> tables_;  // of which single rows are read: no head is tied to them
};

}  // namespace bumblebee::nn
