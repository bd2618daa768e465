// Every part is preceded by its size, so that no two adapters give the same bytes.
#include "lora/identity.h"

#include <span>
#include <utility>

#include "base/blake2b.h"
#include "base/hex.h"

namespace bumblebee::lora {
namespace {

class Digest {
 public:
  void add(uint64_t number) { bytes(&number, sizeof number); }
  void add(float value) { bytes(&value, sizeof value); }
  void add(std::string_view text) {
    add(uint64_t{text.size()});
    bytes(text.data(), text.size());
  }
  void add(const std::vector<float>& values) {
    add(uint64_t{values.size()});
    bytes(values.data(), values.size() * sizeof(float));
  }
  void add(const Matrix& matrix) {
    add(uint64_t(matrix.rows));
    add(uint64_t(matrix.cols));
    add(matrix.values);
  }
  AdapterId id() {
    AdapterId id;
    hash_.finish(id.bytes);
    return id;
  }

 private:
  void bytes(const void* data, size_t size) { hash_.update({static_cast<const std::byte*>(data), size}); }
  Blake2b hash_{sizeof(AdapterId::bytes)};
};

}  // namespace

std::string to_string(const AdapterId& id) { return hex(id.bytes); }

std::shared_ptr<const Adapter> identify(Adapter adapter) {
  Digest digest;
  // The dialect decides what a change of a tied embedding does to the head.
  digest.add(uint64_t(adapter.dialect));
  for (const auto& [path, change] : adapter.modules) {
    digest.add(path);
    digest.add(uint64_t{change.low_rank.has_value()} | uint64_t{change.weight.has_value()} << 1 |
               uint64_t{change.bias.has_value()} << 2);
    if (change.low_rank) {
      digest.add(change.low_rank->a);
      digest.add(change.low_rank->b);
      digest.add(change.low_rank->scale);
      digest.add(change.low_rank->b_bias);
      digest.add(change.low_rank->magnitude);
      if (change.low_rank->experts > 0) digest.add(uint64_t(change.low_rank->experts));
    }
    if (change.weight) digest.add(*change.weight);
    if (change.bias) digest.add(*change.bias);
  }
  adapter.id = digest.id();
  return std::make_shared<const Adapter>(std::move(adapter));
}

}  // namespace bumblebee::lora
