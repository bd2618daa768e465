// Reader: the length, then the header (safetensors_header.cpp), then the layout of the data. Writer: the mirror image.
#include "io/safetensors.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstring>
#include <set>

#include "base/checked.h"
#include "base/error.h"
#include "base/foreign_file.h"
#include "base/json.h"
#include "io/quote.h"
#include "io/safetensors_header.h"

namespace bumblebee {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kLargestHeader = 100'000'000;
constexpr uint64_t kAlignment = 8;

uint64_t load_u64(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | std::to_integer<uint64_t>(bytes[size_t(i)]);
  return value;
}

}  // namespace

uint64_t TensorSpec::size_bytes() const {
  uint64_t total = uint64_t(size_of(dtype));
  for (const uint64_t dim : shape) total *= dim;
  return total;
}

std::string shape_text(std::span<const uint64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += cat(i == 0 ? "" : ", ", shape[i]);
  return text + "]";
}

std::shared_ptr<const SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  const auto mapping = MappedFile::open(path);
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->where_ = path.string();
  file->mapping_ = mapping;
  file->file_ = mapping->bytes();
  file->read_header();
  return file;
}

std::shared_ptr<const SafetensorsFile> SafetensorsFile::parse(std::span<const std::byte> bytes, std::string where) {
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->where_ = std::move(where);
  file->file_ = bytes;
  file->read_header();
  return file;
}

void SafetensorsFile::read_header() {
  const auto first = file_.first(std::min<size_t>(file_.size(), 512));
  if (const std::string what = foreign_content({reinterpret_cast<const char*>(first.data()), first.size()});
      !what.empty())
    throw Error(ErrorCode::bad_file, where_, what);
  if (file_.size() < kLengthBytes) {
    throw Error(ErrorCode::bad_file, where_,
                cat("safetensors file too short: expected at least 8 bytes, got ", file_.size()));
  }
  const uint64_t length = load_u64(file_.first(kLengthBytes));
  if (length > kLargestHeader) {
    throw Error(ErrorCode::bad_file, where_, cat("header length: expected at most ", kLargestHeader, ", got ", length));
  }
  if (length > file_.size() - kLengthBytes) {
    throw Error(
        ErrorCode::bad_file, where_,
        cat("header length: expected at most the ", file_.size() - kLengthBytes, " bytes that follow, got ", length));
  }
  const auto header = file_.subspan(kLengthBytes, size_t(length));
  const std::string_view text(reinterpret_cast<const char*>(header.data()), header.size());
  if (text.empty() || text.front() != '{') {
    throw Error(
        ErrorCode::bad_file, where_,
        cat("header: expected it to begin with '{', got ", text.empty() ? "nothing" : in_quotes(text.substr(0, 1))));
  }
  parse_safetensors_header(text, where_, tensors_, metadata_);
  check_layout(kLengthBytes + length);
  index_.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

void SafetensorsFile::check_layout(uint64_t data_begin) {
  std::sort(tensors_.begin(), tensors_.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  const uint64_t data_bytes = file_.size() - data_begin;
  uint64_t expected = 0;
  for (TensorEntry& tensor : tensors_) {
    const auto fail = [&](const std::string& what) {
      throw Error(ErrorCode::bad_file, where_, cat("tensor ", in_quotes(tensor.name), ": ", what));
    };
    if (tensor.end < tensor.begin)
      fail(cat("data_offsets: expected begin <= end, got [", tensor.begin, ", ", tensor.end, "]"));
    if (tensor.end > data_bytes) {
      fail(cat("data ends outside the file: expected at most ", data_bytes, ", got ", tensor.end,
               "; the file may be an incomplete download"));
    }
    if (tensor.begin != expected) {
      fail(cat("data ", tensor.begin < expected ? "overlaps another tensor" : "leaves a hole", ": expected offset ",
               expected, ", got ", tensor.begin));
    }
    std::optional<uint64_t> bytes = uint64_t(size_of(tensor.dtype));
    for (const uint64_t dim : tensor.shape) bytes = bytes ? checked_mul(*bytes, dim) : bytes;
    if (!bytes) fail(cat("shape ", shape_text(tensor.shape), " overflows"));
    if (*bytes != tensor.end - tensor.begin) {
      fail(cat("shape ", shape_text(tensor.shape), " of ", safetensors_name(tensor.dtype), ": expected ", *bytes,
               " bytes, got ", tensor.end - tensor.begin));
    }
    expected = tensor.end;
    tensor.begin += data_begin;
    tensor.end += data_begin;
  }
  if (expected != data_bytes) {
    throw Error(ErrorCode::bad_file, where_,
                cat("data not covered by tensors: expected ", expected, " bytes, got ", data_bytes));
  }
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorSpec> tensors,
                                     const Metadata& metadata)
    : file_(path), tensors_(std::move(tensors)) {
  std::set<std::string_view> names;
  OrderedJson header = OrderedJson::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const TensorSpec& tensor : tensors_) {
    BB_CHECK(names.insert(tensor.name).second && tensor.name != "__metadata__",
             "tensor written twice or misnamed: ", tensor.name);
    const uint64_t end = offset + tensor.size_bytes();
    header[tensor.name] = {
        {"dtype", safetensors_name(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((kAlignment - text.size() % kAlignment) % kAlignment, ' ');
  if (text.size() > kLargestHeader) {
    throw Error(ErrorCode::bad_request, path.string(),
                cat("header: expected at most ", kLargestHeader, " bytes, got ", text.size()));
  }
  std::byte length[kLengthBytes];
  for (size_t i = 0; i < kLengthBytes; ++i) length[i] = std::byte(text.size() >> (8 * i));
  file_.write(length);
  file_.write(std::as_bytes(std::span(text)));
  skip_full();
}

void SafetensorsWriter::skip_full() {
  while (next_ < tensors_.size() && written_ == tensors_[next_].size_bytes()) {
    ++next_;
    written_ = 0;
  }
}

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  BB_CHECK(next_ < tensors_.size(), "bytes after the last tensor");
  const TensorSpec& tensor = tensors_[next_];
  BB_CHECK(bytes.size() <= tensor.size_bytes() - written_, tensor.name, ": ", bytes.size(), " more than fits after ",
           written_);
  file_.write(bytes);
  written_ += bytes.size();
  skip_full();
}

void SafetensorsWriter::finish() {
  BB_CHECK(next_ == tensors_.size(), "tensor not written: ", tensors_[next_].name);
  file_.commit();
}

void write_safetensors(const std::filesystem::path& path, const std::vector<TensorView>& tensors,
                       const Metadata& metadata) {
  std::vector<TensorSpec> specs;
  for (const TensorView& tensor : tensors) {
    BB_CHECK(tensor.bytes.size() == tensor.spec.size_bytes(), tensor.spec.name);
    specs.push_back(tensor.spec);
  }
  SafetensorsWriter writer(path, std::move(specs), metadata);
  for (const TensorView& tensor : tensors) writer.append(tensor.bytes);
  writer.finish();
}

}  // namespace bumblebee
