// Keys and values on their way into pages: columns, or pairs where that is how products meet them (CpuOps::Meeting).
#include <vector>

#include "backend/cpu/cpu_ops.h"

namespace bumblebee::cpu {
namespace {

constexpr int64_t kSerialAppend = 512;  // features of keys below which waking other threads does not pay

template <class T>
void scatter_column(const void* values, int dim, int page_size, int token, std::byte* keys) {
  const T* from = static_cast<const T*>(values);
  T* column = reinterpret_cast<T*>(keys) + token;
  for (int d = 0; d < dim; ++d) column[size_t(d) * size_t(page_size)] = from[d];
}

/// A key as a column of pairs, and a value as one half of a row of them.
template <class T>
void scatter_key_pairs(const T* key, int dim, int page_size, int token, T* keys) {
  for (int d = 0; d < dim; ++d) keys[(size_t(d / 2) * size_t(page_size) + size_t(token)) * 2 + size_t(d % 2)] = key[d];
}
template <class T>
void scatter_value_pairs(const T* value, int dim, int token, T* values) {
  T* to = values + size_t(token / 2) * size_t(dim) * 2 + size_t(token % 2);
  for (int d = 0; d < dim; ++d) to[2 * size_t(d)] = value[d];
}

}  // namespace

void CpuOps::append_head(const CpuKv& kv, int layer, int head, const Tensor& k, const Tensor& v,
                         const AttentionParams& a, std::byte* key) {
  const int page_size = kv.shape().page_size, dim = a.head_dim;
  const size_t bytes = kv.element_bytes();
  const bool in_pairs = meeting(kv, a) == Meeting::pairs;
  for (const Segment& s : batch_.segments) {
    for (int i = 0; i < s.rows; ++i) {
      const int page = batch_.pages[size_t(s.first_page + (s.past + i) / page_size)], token = (s.past + i) % page_size;
      const float *k_row = row(k, s.first + i) + head * dim, *v_row = row(v, s.first + i) + head * dim;
      std::byte *keys = kv.keys(page, layer, head), *values = kv.values(page, layer, head);
      if (kv.element() == Element::i8) {
        auto* codes = reinterpret_cast<int8_t*>(key);
        kv.key_scales(page, layer, head)[token] = k_.store_i8(k_row, dim, codes);
        scatter_key_pairs(codes, dim, page_size, token, reinterpret_cast<int8_t*>(keys));
        kv.value_scales(page, layer, head)[token] = k_.store_i8(v_row, dim, codes);
        scatter_value_pairs(codes, dim, token, reinterpret_cast<int8_t*>(values));
        continue;
      }
      k_.store(k_row, dim, kv.element(), key);
      if (in_pairs) {
        scatter_key_pairs(reinterpret_cast<uint16_t*>(key), dim, page_size, token, reinterpret_cast<uint16_t*>(keys));
        k_.store(v_row, dim, kv.element(), key);
        scatter_value_pairs(reinterpret_cast<uint16_t*>(key), dim, token, reinterpret_cast<uint16_t*>(values));
        continue;
      }
      k_.store(v_row, dim, kv.element(), values + size_t(token) * size_t(dim) * bytes);
      if (bytes == 4) {
        scatter_column<float>(key, dim, page_size, token, keys);
      } else {
        scatter_column<uint16_t>(key, dim, page_size, token, keys);
      }
    }
  }
}

void CpuOps::append_kv(CpuKv& kv, int layer, const Tensor& k, const Tensor& v, const AttentionParams& a) {
  const int page_size = kv.shape().page_size;
  for (const Segment& s : batch_.segments) {
    for (int token = s.past; token < s.past + s.rows; token += page_size - token % page_size)
      kv.touch(batch_.pages[size_t(s.first_page + token / page_size)]);
  }
  // A key of each head: nothing may ask for memory within a loop of threads.
  const size_t key_bytes = size_t(a.head_dim) * kv.element_bytes();
  std::vector<std::byte> keys(a.value_dim > 0 ? 0 : size_t(a.kv_heads) * key_bytes);
  const auto append = [&](int head) {
    a.value_dim > 0 ? append_latents(kv, layer, head, k, a)
                    : append_head(kv, layer, head, k, v, a, keys.data() + size_t(head) * key_bytes);
  };
  // A key is a column of its page: a line of memory for every feature, of which one thread would wait for each.
  if (int64_t{k.rows()} * k.cols() < kSerialAppend) {
    for (int head = 0; head < a.kv_heads; ++head) append(head);
  } else {
    threads_.for_each(a.kv_heads, [&](int64_t head, int) { append(int(head)); });
  }
}

}  // namespace bumblebee::cpu
