// Keys and values on their way into pages: columns, or pairs where that is how products meet them (CpuOps::Meeting),
// and latents as they come.
#include <algorithm>
#include <vector>

#include "backend/cpu/cpu_ops.h"

namespace bumblebee::cpu {
namespace {

constexpr int64_t kSerialAppend = 512;  // features of keys below which waking other threads does not pay
constexpr size_t kLine = 64;

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

/// Rows of one segment that one page takes, so that no two threads write to the same lines of memory.
struct CpuOps::PageRows {
  int page, token;  // of the first row
  int first, rows;  // in the batch
};

void CpuOps::append_head(const CpuKv& kv, int layer, int head, const PageRows& to, const Tensor& k, const Tensor& v,
                         const AttentionParams& a, std::byte* key) {
  const int page_size = kv.shape().page_size, dim = a.head_dim;
  const size_t bytes = kv.element_bytes();
  const bool in_pairs = meeting(kv, a) == Meeting::pairs;
  std::byte *const keys = kv.keys(to.page, layer, head), *const values = kv.values(to.page, layer, head);
  for (int i = 0; i < to.rows; ++i) {
    const int token = to.token + i;
    const float *k_row = row(k, to.first + i) + head * dim, *v_row = row(v, to.first + i) + head * dim;
    if (kv.element() == Element::i8) {
      auto* codes = reinterpret_cast<int8_t*>(key);
      kv.key_scales(to.page, layer, head)[token] = k_.store_i8(k_row, dim, codes);
      scatter_key_pairs(codes, dim, page_size, token, reinterpret_cast<int8_t*>(keys));
      kv.value_scales(to.page, layer, head)[token] = k_.store_i8(v_row, dim, codes);
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

void CpuOps::append_latents(const CpuKv& kv, int layer, int head, const PageRows& to, const Tensor& k,
                            const AttentionParams& a) {
  const int dim = a.head_dim;
  for (int i = 0; i < to.rows; ++i) {
    const int token = to.token + i;
    const float* from = row(k, to.first + i) + head * dim;
    std::byte* at = kv.keys(to.page, layer, head) + size_t(token) * size_t(dim) * kv.element_bytes();
    if (kv.element() != Element::i8) {
      k_.store(from, dim, kv.element(), at);
      continue;
    }
    float* scales = kv.key_scales(to.page, layer, head) + 2 * token;
    auto* codes = reinterpret_cast<int8_t*>(at);
    scales[0] = k_.store_i8(from, a.value_dim, codes);
    scales[1] = k_.store_i8(from + a.value_dim, dim - a.value_dim, codes + a.value_dim);
  }
}

void CpuOps::append_kv(CpuKv& kv, int layer, const Tensor& k, const Tensor& v, const AttentionParams& a) {
  const int page_size = kv.shape().page_size;
  std::vector<PageRows> parts;
  for (const Segment& s : batch_.segments) {
    for (int i = 0; i < s.rows;) {
      const int page = batch_.pages[size_t(s.first_page + (s.past + i) / page_size)], token = (s.past + i) % page_size;
      const int rows = std::min(page_size - token, s.rows - i);
      kv.touch(page);
      parts.push_back({page, token, s.first + i, rows});
      i += rows;
    }
  }
  // A key for each thread: nothing may ask for memory within a loop of threads.
  const size_t key_bytes = (size_t(a.head_dim) * kv.element_bytes() + kLine - 1) / kLine * kLine;
  std::vector<std::byte> keys(a.value_dim > 0 ? 0 : size_t(threads_.threads()) * key_bytes);
  const auto append = [&](int64_t i, int thread) {
    const PageRows& to = parts[size_t(i / a.kv_heads)];
    const int head = int(i % a.kv_heads);
    a.value_dim > 0 ? append_latents(kv, layer, head, to, k, a)
                    : append_head(kv, layer, head, to, k, v, a, keys.data() + size_t(thread) * key_bytes);
  };
  const int64_t count = int64_t(parts.size()) * a.kv_heads;
  // A key is a column of its page: a line of memory for every feature, of which one thread would wait for each.
  if (int64_t{k.rows()} * k.cols() < kSerialAppend) {
    for (int64_t i = 0; i < count; ++i) append(i, 0);
  } else {
    threads_.for_each(count, append);
  }
}

}  // namespace bumblebee::cpu
