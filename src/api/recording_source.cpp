// Sizes come from shapes and formats: a plan reads nothing.
#include "api/recording_source.h"

namespace bumblebee::api {

HostWeight RecordingSource::matrix(const std::string& path, int out, int in) {
  HostWeight weight = source_.matrix(path, out, in);
  record(path, weight);
  return weight;
}

HostWeight RecordingSource::experts(const std::string& path, int experts, int out, int in) {
  HostWeight weight = source_.experts(path, experts, out, in);
  record(path, weight);
  return weight;
}

HostWeight RecordingSource::heads(const std::string& path, int heads, int out, int in) {
  HostWeight weight = source_.heads(path, heads, out, in);
  HostWeight whole = weight;
  whole.experts = 1;
  whole.out = heads * out;
  record(path, whole);
  return weight;
}

void RecordingSource::record(const std::string& path, const HostWeight& weight) {
  const int in = weight.in;
  const uint64_t rows = uint64_t(weight.experts) * uint64_t(weight.out);
  const Format& format = weight.format;
  const bool affine = format.kind == Format::Kind::affine;
  // Not from the spans: a plan has none. Same figures otherwise.
  const uint64_t groups = affine ? uint64_t(in / format.group) : 0;
  const uint64_t bytes = rows * (row_bytes(format, in) +
                                 groups * uint64_t(size_of(format.scale) + (format.biased ? size_of(format.bias) : 0)));
  modules_.push_back({.name = path,
                      .experts = weight.experts,
                      .out = weight.out,
                      .in = in,
                      .mode = affine ? std::string(to_string(spec_of(format).mode)) : "dense",
                      .bits = affine ? format.bits : 0,
                      .group_size = affine ? format.group : 0,
                      .dtype = std::string(to_string(format.scale)),
                      .bytes = bytes});
  parameters_ += rows * uint64_t(in);
  bytes_ += bytes;
}

HostWeight RecordingSource::depthwise(const std::string& name, int cols, int kernel, bool& by_torch) {
  HostWeight weight = source_.depthwise(name, cols, kernel, by_torch);
  parameters_ += uint64_t(cols) * uint64_t(kernel);
  bytes_ += stored_bytes(weight);
  return weight;
}

HostWeight RecordingSource::vector(const std::string& name, int size) {
  HostWeight weight = source_.vector(name, size);
  parameters_ += uint64_t(size);
  bytes_ += stored_bytes(weight);
  return weight;
}

HostWeight RecordingSource::vectors(const std::string& name, int count, int size) {
  HostWeight weight = source_.vectors(name, count, size);
  parameters_ += uint64_t(count) * uint64_t(size);
  bytes_ += stored_bytes(weight);
  return weight;
}

}  // namespace bumblebee::api
