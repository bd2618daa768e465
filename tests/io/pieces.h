// Files of checkpoints, tensor by tensor, whole or broken.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "io/checkpoint.h"
#include "io/safetensors.h"
#include "tests/io/files.h"

namespace bumblebee::test {

inline constexpr const char* kConfig = R"({"model_type":"llama","quantization":{"bits":4,"group_size":32}})";

/// A quantized module [out, in] as the three entries of a file, with recognisable bytes.
struct Piece {
  TensorSpec spec;
  std::string bytes;
};

inline std::vector<Piece> quantized(const std::string& path, uint64_t out, uint64_t in, int bits, int group,
                                    DType scale = DType::f16) {
  std::vector<Piece> pieces = {{{path + ".weight", DType::u32, {out, in * uint64_t(bits) / 32}}, ""},
                               {{path + ".scales", scale, {out, in / uint64_t(group)}}, ""},
                               {{path + ".biases", scale, {out, in / uint64_t(group)}}, ""}};
  for (size_t i = 0; i < 3; ++i) pieces[i].bytes.assign(size_t(pieces[i].spec.size_bytes()), char('a' + i));
  return pieces;
}

inline Piece dense(const std::string& name, DType dtype, std::vector<uint64_t> shape) {
  Piece piece{{name, dtype, std::move(shape)}, ""};
  piece.bytes.assign(size_t(piece.spec.size_bytes()), 'd');
  return piece;
}

inline void save(const std::filesystem::path& path, const std::vector<Piece>& pieces) {
  std::vector<TensorView> views;
  for (const Piece& piece : pieces) views.push_back({piece.spec, as_bytes(piece.bytes)});
  write_safetensors(path, views);
}

inline std::vector<Piece> operator+(std::vector<Piece> a, const std::vector<Piece>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// A file whose module "m", asked for as [2, 64], is refused.
struct Broken {
  const char* name;
  const char* config;
  std::vector<Piece> pieces;
  const char* part;  // of the message
};

inline std::vector<Piece> without(std::vector<Piece> pieces, size_t index) {
  pieces.erase(pieces.begin() + long(index));
  return pieces;
}

inline std::vector<Piece> with(std::vector<Piece> pieces, size_t index, DType dtype, std::vector<uint64_t> shape) {
  pieces[index] = dense(pieces[index].spec.name, dtype, std::move(shape));
  return pieces;
}

/// The message has the part, the file and the module.
inline void expect_refusals(std::span<const Broken> cases) {
  for (const Broken& broken : cases) {
    const TemporaryDirectory d;
    write_bytes(d.path() / "config.json", broken.config);
    save(d.path() / "model.safetensors", broken.pieces);
    const auto checkpoint = Checkpoint::open(d.path());
    for (const std::string& part : {std::string(broken.part), d.path().string(), std::string("'m")})
      expect_error([&] { checkpoint->matrix("m", 2, 64); }, part, broken.name);
  }
}

}  // namespace bumblebee::test
