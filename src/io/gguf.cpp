// A cursor over the mapped bytes that refuses to pass the end, and the checks of the layout.
#include "io/gguf.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/checked.h"
#include "base/error.h"
#include "base/foreign_file.h"
#include "io/quote.h"

namespace bumblebee {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kMostEntries = 65536, kLongestKey = 65535, kLongestName = 256, kLongestString = uint64_t{64} << 20;
constexpr uint64_t kMostDims = 4, kDefaultAlignment = 32, kLargestAlignment = uint64_t{1} << 20;

int bytes_of(GgufKind kind) {
  switch (kind) {
    case GgufKind::u8:
    case GgufKind::i8:
    case GgufKind::boolean: return 1;
    case GgufKind::u16:
    case GgufKind::i16: return 2;
    case GgufKind::u32:
    case GgufKind::i32:
    case GgufKind::f32: return 4;
    case GgufKind::u64:
    case GgufKind::i64:
    case GgufKind::f64: return 8;
    default: return 0;
  }
}

uint64_t load(const std::byte* p, int size) {
  uint64_t value = 0;
  for (int i = size - 1; i >= 0; --i) value = value << 8 | std::to_integer<uint64_t>(p[i]);
  return value;
}

/// Element `i` of packed values as an integer; empty when it is not one or does not fit.
std::optional<int64_t> integer_at(GgufKind kind, std::span<const std::byte> bytes, uint64_t i) {
  const int size = bytes_of(kind);
  const uint64_t raw = load(bytes.data() + i * uint64_t(size), size);
  switch (kind) {
    case GgufKind::u8:
    case GgufKind::u16:
    case GgufKind::u32: return int64_t(raw);
    case GgufKind::i8: return int8_t(raw);
    case GgufKind::i16: return int16_t(raw);
    case GgufKind::i32: return int32_t(raw);
    case GgufKind::i64: return int64_t(raw);
    case GgufKind::u64: return raw <= uint64_t(INT64_MAX) ? std::optional<int64_t>(int64_t(raw)) : std::nullopt;
    default: return std::nullopt;
  }
}

}  // namespace

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = uint8_t(text[i]);
    const size_t length = lead < 0x80                   ? 1
                          : lead >= 0xc2 && lead < 0xe0 ? 2
                          : lead >= 0xe0 && lead < 0xf0 ? 3
                          : lead >= 0xf0 && lead < 0xf5 ? 4
                                                        : 0;
    if (length == 0 || length > text.size() - i) return false;
    uint32_t point = length == 1 ? lead : lead & (0x7fu >> length);
    for (size_t k = 1; k < length; ++k) {
      const auto byte = uint8_t(text[i + k]);
      if ((byte & 0xc0) != 0x80) return false;
      point = point << 6 | (byte & 0x3fu);
    }
    if ((length == 3 && (point < 0x800 || (point >= 0xd800 && point < 0xe000))) ||
        (length == 4 && (point < 0x10000 || point > 0x10ffff)))
      return false;
    i += length;
  }
  return true;
}

std::shared_ptr<const GgufFile> GgufFile::open(const std::filesystem::path& path) {
  const auto mapping = MappedFile::open(path);
  std::shared_ptr<GgufFile> file(new GgufFile);
  file->where_ = path.string();
  file->mapping_ = mapping;
  file->file_ = mapping->bytes();
  file->read();
  return file;
}

std::shared_ptr<const GgufFile> GgufFile::parse(std::span<const std::byte> bytes, std::string where) {
  std::shared_ptr<GgufFile> file(new GgufFile);
  file->where_ = std::move(where);
  file->file_ = bytes;
  file->read();
  return file;
}

uint64_t GgufFile::take(int size, std::string_view what) {
  if (uint64_t(size) > file_.size() - at_) {
    throw Error(ErrorCode::bad_file, where_,
                cat("file ends inside ", what, ": expected ", size, " bytes at ", at_, ", got ", file_.size() - at_));
  }
  const uint64_t value = load(file_.data() + at_, size);
  at_ += uint64_t(size);
  return value;
}

std::string_view GgufFile::take_string(uint64_t limit, std::string_view what) {
  const uint64_t length = take(8, what);
  if (length > limit || length > file_.size() - at_) {
    throw Error(ErrorCode::bad_file, where_,
                cat("length of ", what, ": expected at most ", std::min(limit, file_.size() - at_), ", got ", length));
  }
  const std::string_view text(reinterpret_cast<const char*>(file_.data() + at_), size_t(length));
  at_ += length;
  return text;
}

GgufValue GgufFile::take_value(GgufKind kind, std::string_view what) {
  GgufValue value;
  value.kind = value.element = kind;
  if (kind == GgufKind::array) {
    value.element = GgufKind(uint32_t(take(4, what)));
    value.count = take(8, what);
  }
  const uint64_t begin = at_;
  if (value.element == GgufKind::string) {
    for (uint64_t i = 0; i < value.count; ++i) take_string(kLongestString, what);
  } else {
    const int size = bytes_of(value.element);
    if (size == 0) {
      throw Error(ErrorCode::bad_file, where_,
                  cat(what, ": expected a known type", kind == GgufKind::array ? " of elements" : "", ", got ",
                      uint32_t(value.element)));
    }
    const auto bytes = checked_mul(value.count, uint64_t(size));
    if (!bytes || *bytes > file_.size() - at_) {
      throw Error(
          ErrorCode::bad_file, where_,
          cat(what, ": expected at most ", file_.size() - at_, " bytes, got ", value.count, " elements of ", size));
    }
    at_ += *bytes;
  }
  value.bytes = file_.subspan(size_t(begin), size_t(at_ - begin));
  return value;
}

void GgufFile::read() {
  const auto first = file_.first(std::min<size_t>(file_.size(), 512));
  if (const std::string what = foreign_content({reinterpret_cast<const char*>(first.data()), first.size()});
      !what.empty())
    throw Error(ErrorCode::bad_file, where_, what);
  if (take(4, "the magic number") != kMagic)
    throw Error(ErrorCode::bad_file, where_, "expected a GGUF file, got another beginning");
  const uint64_t version = take(4, "the version");
  if (version == 0x02000000 || version == 0x03000000) {
    throw Error(ErrorCode::unsupported, where_, "big-endian GGUF is not supported: expected little-endian");
  }
  if (version != 2 && version != 3)
    throw Error(ErrorCode::unsupported, where_, cat("GGUF version: expected 2 or 3, got ", version));
  const uint64_t tensors = take(8, "the tensor count"), entries = take(8, "the metadata count");
  if (tensors > kMostEntries)
    throw Error(ErrorCode::bad_file, where_, cat("tensor count: expected at most ", kMostEntries, ", got ", tensors));
  if (entries > kMostEntries)
    throw Error(ErrorCode::bad_file, where_, cat("metadata count: expected at most ", kMostEntries, ", got ", entries));
  read_metadata(entries);
  read_tensors(tensors);
  check_layout();
}

void GgufFile::read_metadata(uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    const std::string key(take_string(kLongestKey, cat("metadata key ", i)));
    const auto kind = GgufKind(uint32_t(take(4, cat("metadata ", in_quotes(key)))));
    if (!metadata_.emplace(key, take_value(kind, cat("metadata ", in_quotes(key)))).second) {
      throw Error(ErrorCode::bad_file, where_, cat("metadata ", in_quotes(key), " given twice"));
    }
  }
}

void GgufFile::read_tensors(uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    GgufTensor tensor;
    tensor.name = take_string(kLongestName, cat("name of tensor ", i));
    const std::string what = cat("tensor ", in_quotes(tensor.name));
    const uint64_t dims = take(4, what);
    if (dims < 1 || dims > kMostDims)
      throw Error(ErrorCode::bad_file, where_, cat(what, ": expected 1 to ", kMostDims, " dimensions, got ", dims));
    for (uint64_t d = 0; d < dims; ++d) tensor.shape.insert(tensor.shape.begin(), take(8, what));
    tensor.type = GgufType(uint32_t(take(4, what)));
    tensor.begin = take(8, what);
    const auto block = gguf_block(tensor.type);
    if (!block)
      throw Error(ErrorCode::unsupported, where_,
                  cat(what, ": type ", gguf_type_name(tensor.type), " is not supported"));
    std::optional<uint64_t> elements = 1;
    for (const uint64_t dim : tensor.shape) elements = elements && dim > 0 ? checked_mul(*elements, dim) : std::nullopt;
    if (!elements) throw Error(ErrorCode::bad_file, where_, cat(what, ": shape has a zero or overflows"));
    if (tensor.shape.back() % uint64_t(block->elements) != 0) {
      throw Error(ErrorCode::bad_file, where_,
                  cat(what, ": row length for ", gguf_type_name(tensor.type), ": expected a multiple of ",
                      block->elements, ", got ", tensor.shape.back()));
    }
    const auto bytes = checked_mul(*elements / uint64_t(block->elements), uint64_t(block->bytes));
    const auto end = bytes ? checked_add(tensor.begin, *bytes) : std::nullopt;
    if (!end) throw Error(ErrorCode::bad_file, where_, cat(what, ": size overflows"));
    tensor.end = *end;
    if (!index_.emplace(tensor.name, tensors_.size()).second)
      throw Error(ErrorCode::bad_file, where_, cat(what, " given twice"));
    tensors_.push_back(std::move(tensor));
  }
}

void GgufFile::check_layout() {
  const uint64_t alignment =
      uint64_t(integer("general.alignment", 1, int64_t(kLargestAlignment)).value_or(int64_t(kDefaultAlignment)));
  if (!std::has_single_bit(alignment)) {
    throw Error(ErrorCode::bad_file, where_, cat("'general.alignment': expected a power of two, got ", alignment));
  }
  // at_ is at most the file's size, so this cannot wrap. A file without tensors may end unpadded.
  const uint64_t data = (at_ + alignment - 1) / alignment * alignment;
  const uint64_t room = data <= file_.size() ? file_.size() - data : 0;
  std::vector<const GgufTensor*> order;
  for (GgufTensor& tensor : tensors_) {
    const std::string what = cat("tensor ", in_quotes(tensor.name));
    if (tensor.begin % alignment != 0)
      throw Error(ErrorCode::bad_file, where_,
                  cat(what, ": offset: expected a multiple of ", alignment, ", got ", tensor.begin));
    if (tensor.end > room)
      throw Error(ErrorCode::bad_file, where_,
                  cat(what, ": data ends outside the file: expected at most ", room, ", got ", tensor.end));
    tensor.begin += data;
    tensor.end += data;
    order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(), [](const GgufTensor* a, const GgufTensor* b) { return a->begin < b->begin; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i]->begin < order[i - 1]->end) {
      throw Error(ErrorCode::bad_file, where_,
                  cat("tensor ", in_quotes(order[i]->name), ": data overlap tensor ", in_quotes(order[i - 1]->name)));
    }
  }
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto it = metadata_.find(key);
  return it == metadata_.end() ? nullptr : &it->second;
}

std::optional<int64_t> GgufFile::integer(std::string_view key, int64_t low, int64_t high) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto number = value->kind == GgufKind::array ? std::nullopt : integer_at(value->kind, value->bytes, 0);
  if (!number || *number < low || *number > high) {
    throw Error(ErrorCode::bad_config, where_,
                cat("metadata ", in_quotes(key), ": expected an integer from ", low, " to ", high, ", got ",
                    number ? cat(*number) : "something else"));
  }
  return number;
}

int64_t GgufFile::require_integer(std::string_view key, int64_t low, int64_t high) const {
  const auto value = integer(key, low, high);
  if (!value)
    throw Error(ErrorCode::bad_config, where_, cat("metadata ", in_quotes(key), " is missing: expected an integer"));
  return *value;
}

std::optional<float> GgufFile::number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  std::optional<float> number;
  if (value->kind == GgufKind::f32) number = std::bit_cast<float>(uint32_t(load(value->bytes.data(), 4)));
  if (value->kind == GgufKind::f64) number = float(std::bit_cast<double>(load(value->bytes.data(), 8)));
  if (!number || !std::isfinite(*number))
    throw Error(ErrorCode::bad_config, where_,
                cat("metadata ", in_quotes(key), ": expected a finite number, got something else"));
  return number;
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->kind != GgufKind::boolean || std::to_integer<int>(value->bytes[0]) > 1) {
    throw Error(ErrorCode::bad_config, where_,
                cat("metadata ", in_quotes(key), ": expected true or false, got something else"));
  }
  return std::to_integer<int>(value->bytes[0]) == 1;
}

std::optional<std::string> GgufFile::string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->kind != GgufKind::string)
    throw Error(ErrorCode::bad_config, where_,
                cat("metadata ", in_quotes(key), ": expected a string, got something else"));
  std::string text(reinterpret_cast<const char*>(value->bytes.data()) + 8, value->bytes.size() - 8);
  if (!is_utf8(text))
    throw Error(ErrorCode::bad_file, where_, cat("metadata ", in_quotes(key), ": expected UTF-8, got other bytes"));
  return text;
}

std::optional<std::vector<std::string_view>> GgufFile::strings(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->kind != GgufKind::array || value->element != GgufKind::string) {
    throw Error(ErrorCode::bad_config, where_,
                cat("metadata ", in_quotes(key), ": expected an array of strings, got something else"));
  }
  std::vector<std::string_view> result;
  const std::byte* at = value->bytes.data();
  for (uint64_t i = 0; i < value->count; ++i) {  // the walk was checked when the file was opened
    const uint64_t length = load(at, 8);
    result.emplace_back(reinterpret_cast<const char*>(at) + 8, size_t(length));
    at += 8 + length;
  }
  return result;
}

std::optional<std::vector<float>> GgufFile::numbers(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto refuse = [&] {
    throw Error(ErrorCode::bad_config, where_,
                cat("metadata ", in_quotes(key), ": expected an array of finite f32, got something else"));
  };
  if (value->kind != GgufKind::array || value->element != GgufKind::f32) refuse();
  std::vector<float> result(size_t(value->count));
  std::memcpy(result.data(), value->bytes.data(), result.size() * sizeof(float));
  for (const float number : result)
    if (!std::isfinite(number)) refuse();
  return result;
}

std::optional<std::vector<int64_t>> GgufFile::integers(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  std::vector<int64_t> result;
  for (uint64_t i = 0; i < value->count; ++i) {
    const auto number = value->kind == GgufKind::array && value->element != GgufKind::string
                            ? integer_at(value->element, value->bytes, i)
                            : std::nullopt;
    if (!number)
      throw Error(ErrorCode::bad_config, where_,
                  cat("metadata ", in_quotes(key), ": expected an array of integers, got something else"));
    result.push_back(*number);
  }
  return result;
}

}  // namespace bumblebee
