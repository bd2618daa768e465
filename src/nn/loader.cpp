// One pass over the names of a model.
#include "nn/loader.h"

#include <algorithm>
#include <memory>

#include "base/mapped_file.h"
#include "quant/elements.h"

namespace bumblebee::nn {

Loader::Loader(WeightSource& source, Backend* backend, Progress progress)
    : source_(source), backend_(backend), progress_(std::move(progress)) {}

void Loader::count(const HostWeight& weight) {
  bytes_ += weight.codes.size() + weight.scales.size() + weight.biases.size();
  if (progress_) progress_(bytes_);
}

void Loader::need(Operation operation) {
  if (std::find(operations_.begin(), operations_.end(), operation) == operations_.end())
    operations_.push_back(operation);
}

Weight Loader::matrix(const std::string& path, int out, int in) {
  return matrix(path, source_.matrix(path, out, in), out, in);
}

Weight Loader::matrix(const std::string& path, const HostWeight& host, int out, int in) {
  BB_CHECK(host.out == out && host.in == in, path);
  Weight weight = pack(host);
  count(host);
  return weight;
}

Weight Loader::pack(const HostWeight& host) {
  if (std::find(formats_.begin(), formats_.end(), host.format) == formats_.end()) formats_.push_back(host.format);
  if (backend_ != nullptr) return backend_->pack(host);
  return {host.format, host.out, host.in, nullptr};
}

ExpertLinear Loader::experts(const std::string& stack, FunctionRef<std::string(int)> each, int experts, int out,
                             int in) {
  const bool apart = !source_.has_module(stack) && source_.has_module(each(0));
  std::vector<Weight> weights;
  HostWeight all;
  if (!apart) all = source_.experts(stack, experts, out, in);
  for (int e = 0; e < experts; ++e) {
    const HostWeight host = apart ? source_.matrix(each(e), out, in) : expert_of(all, e);
    weights.push_back(pack(host));
    if (weights.back().format != weights.front().format) {
      throw Error(ErrorCode::bad_file, "checkpoint",
                  cat("expert '", each(e), "': expected ", to_string(weights.front().format),
                      " as the first one has, got ", to_string(weights.back().format)));
    }
    count(host);
  }
  need(Operation::matmul_experts);
  // Names of two experts differ in the number alone.
  std::string name = each(0);
  const std::string other = each(1);
  const auto number = size_t(std::mismatch(name.begin(), name.end(), other.begin()).first - name.begin());
  if (number < name.size()) name[number] = '#';
  target_modules_.push_back({.name = stack,
                             .in = in,
                             .out = out,
                             .kind = TargetModule::Kind::experts,
                             .experts = experts,
                             .each = std::move(name)});
  target_weights_.emplace_back();
  Weight packed{weights.front().format, out, in, nullptr, experts};
  if (backend_ != nullptr) packed = backend_->stack(weights);
  return {std::move(packed), {}, int(target_modules_.size()) - 1, stack};
}

HeadLinear Loader::stacked(std::span<const HostWeight> heads, bool transposed, const std::string& name) {
  std::vector<Weight> weights;
  for (const HostWeight& host : heads) weights.push_back(pack(host));
  const Weight& first = weights.front();
  Weight packed{first.format, first.out, first.in, nullptr, int(weights.size())};
  if (backend_ != nullptr) packed = backend_->stack(weights);
  return {std::move(packed), transposed, name};
}

HeadLinear Loader::heads(const std::string& path, int heads, int out, int in) {
  const HostWeight all = source_.heads(path, heads, out, in);
  std::vector<HostWeight> each;
  for (int h = 0; h < heads; ++h) each.push_back(expert_of(all, h));
  count(all);
  HeadLinear linear = stacked(each, false, path);
  add_heads(linear, heads, in, out);
  return linear;
}

/// What adapters know it as.
void Loader::add_heads(HeadLinear& linear, int heads, int in, int out) {
  linear.site = int(target_modules_.size());
  target_modules_.push_back(
      {.name = linear.name, .in = in, .out = out, .kind = TargetModule::Kind::heads, .experts = heads});
  target_weights_.emplace_back();
}

std::pair<HeadLinear, HeadLinear> Loader::split_heads(const std::string& path, int heads, int first, int second, int in,
                                                      std::pair<std::string, std::string> names) {
  const HostWeight all = source_.matrix(path, heads * (first + second), in);
  std::vector<HostWeight> before, after;
  for (int h = 0; h < heads; ++h) {
    before.push_back(rows_of(all, h * (first + second), first));
    after.push_back(rows_of(all, h * (first + second) + first, second));
  }
  target_modules_.push_back({path, in, all.out, TargetModule::Kind::heads, false});
  target_weights_.emplace_back();
  count(all);
  HeadLinear into = stacked(before, true, names.first), from = stacked(after, false, names.second);
  add_heads(into, heads, first, in);
  add_heads(from, heads, in, second);
  return {std::move(into), std::move(from)};
}

Linear Loader::router(const std::string& path, int experts, int in, bool with_bias) {
  Linear router = linear(path, experts, in, with_bias);
  target_modules_.back().router = true;
  return router;
}

void Loader::expert_bias(ExpertLinear& linear, int experts, int out) {
  linear.bias = packed_vector(source_.vectors(linear.name + ".bias", experts, out));
  need(Operation::expert_bias);
}

Tensor Loader::vector(const std::string& name, int size) { return packed_vector(source_.vector(name, size)); }

Tensor Loader::packed_vector(const HostWeight& host) {
  Tensor tensor;
  if (backend_ != nullptr) tensor = backend_->pack_vector(host);
  count(host);
  return tensor;
}

Linear Loader::linear(const std::string& path, int out, int in, bool with_bias) {
  Linear linear{matrix(path, out, in), {}, int(target_modules_.size()), path};
  if (with_bias) linear.bias = vector(path + ".bias", out);
  target_modules_.push_back({path, in, out, TargetModule::Kind::linear, with_bias});
  target_weights_.push_back(linear.w);
  return linear;
}

ConvParams Loader::depthwise(const std::string& path, int cols, int kernel, bool& by_torch) {
  const HostWeight host = source_.depthwise(path + ".weight", cols, kernel, by_torch);
  count(host);
  if (backend_ == nullptr) return {};
  std::vector<float> of_column(static_cast<size_t>(kernel)), values(size_t(kernel) * size_t(cols));
  for (int c = 0; c < cols; ++c) {
    decode_row<float>(host, c, of_column);
    for (int j = 0; j < kernel; ++j) values[size_t(j) * size_t(cols) + size_t(c)] = of_column[size_t(j)];
  }
  return {backend_->upload(values, kernel, cols)};
}

Tensor Loader::pack_floats(const std::string& name, std::span<const float> values) {
  if (backend_ == nullptr) return {};
  HostWeight host;
  host.format = Format::dense(DType::f32);
  host.out = 1;
  host.in = int(values.size());
  host.name = name;
  const auto kept = std::make_shared<std::vector<float>>(values.begin(), values.end());
  host.codes = std::as_bytes(std::span(*kept));
  host.keep = kept;
  return backend_->pack_vector(host);
}

RmsNorm Loader::rms_norm(const std::string& path, int size, double eps, float offset) {
  target_modules_.push_back(
      {.name = path, .in = size, .out = size, .kind = TargetModule::Kind::norm, .offset = offset});
  target_weights_.emplace_back();
  RmsNorm norm{{{}, float(eps)}, path, int(target_modules_.size()) - 1};
  if (offset == 0) {
    norm.params.w = vector(path + ".weight", size);
    return norm;
  }
  const HostWeight host = source_.vector(path + ".weight", size);
  std::vector<float> values(size_t(size), 0.0f);
  if (backend_ != nullptr) decode_row<float>(host, 0, values);
  for (float& v : values) v += offset;  // as the models' own code adds it, in f32
  norm.params.w = pack_floats(path, values);
  count(host);
  return norm;
}

RmsNorm Loader::plain_norm(const std::string& name, int size, double eps) {
  return {{pack_floats(name, std::vector<float>(size_t(size), 1.0f)), float(eps)}, name, -1};
}

float Loader::scalar(const std::string& name) {
  const HostWeight host = source_.vector(name, 1);
  float value = 1;
  if (backend_ != nullptr) decode_row<float>(host, 0, {&value, 1});
  count(host);
  return value;
}

Embedding Loader::embedding(const std::string& path, int vocab, int d_model) {
  target_modules_.push_back({path, vocab, d_model, TargetModule::Kind::embedding, false});
  const HostWeight host = source_.matrix(path, vocab, d_model);
  tables_.push_back({path, {host.codes, host.scales, host.biases}, host.keep});
  target_weights_.push_back(matrix(path, host, vocab, d_model));
  return {target_weights_.back(), path, int(target_modules_.size()) - 1};
}

Linear Loader::head(const std::string& path, const Embedding& embedding, int vocab, int d_model, bool tied) {
  if (!tied) return linear(path, vocab, d_model, false);
  for (const char* leaf : {".weight", ".scales", ".biases"}) source_.ignore(path + leaf);
  target_modules_.push_back({path, d_model, vocab, TargetModule::Kind::linear, false});
  target_weights_.push_back(embedding.table);
  std::erase_if(tables_, [&](const Table& table) { return table.path == embedding.name; });
  return {embedding.table, {}, int(target_modules_.size()) - 1, path};
}

void Loader::finish() const {
  const std::vector<std::string> left = source_.unclaimed();
  if (left.empty()) {
    for (const Table& table : tables_) {
      const auto owner = table.owner.lock();
      for (const std::span<const std::byte> part : table.parts)
        if (owner != nullptr) pages_here_and_there(part);
    }
    return;
  }
  std::string names;
  for (size_t i = 0; i < std::min<size_t>(left.size(), 8); ++i) names += (i == 0 ? "" : ", ") + left[i];
  if (left.size() > 8) names += ", ...";
  throw Error(ErrorCode::bad_file, "checkpoint",
              cat("tensors that the model does not use: expected none, got ", left.size(), ": ", names));
}

}  // namespace bumblebee::nn
