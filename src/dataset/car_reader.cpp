// Two cursors: over sections with their lengths, and over the items of a block. Nothing is built but the texts, and
// nesting costs no stack. https://ipld.io/specs/transport/car/carv1, https://ipld.io/specs/codecs/dag-cbor
#include "dataset/car_reader.h"

#include <optional>

#include "base/error.h"

namespace bumblebee::dataset {
namespace {

class Bytes {
 public:
  Bytes(std::string_view bytes, std::string where) : rest_(bytes), where_(std::move(where)) {}

  [[noreturn]] void fail(const std::string& what) const { throw Error(ErrorCode::bad_file, where_, what); }
  bool empty() const { return rest_.empty(); }
  std::string_view rest() const { return rest_; }

  std::string_view take(uint64_t count) {
    if (count > rest_.size()) fail(cat("expected ", count, " more bytes, got ", rest_.size(), ": the file is cut off"));
    const std::string_view taken = rest_.substr(0, size_t(count));
    rest_.remove_prefix(size_t(count));
    return taken;
  }
  uint8_t byte() { return uint8_t(take(1).front()); }

  /// LEB128, as multiformats have it.
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 63; shift += 7) {
      const uint8_t one = byte();
      value |= uint64_t(one & 0x7F) << shift;
      if ((one & 0x80) == 0) return value;
    }
    fail("a length of more than 9 bytes");
  }

 private:
  std::string_view rest_;
  std::string where_;
};

enum class Major : uint8_t { number, negative, bytes, text, array, map, tag, simple };

struct Head {
  Major major = Major::number;
  uint64_t value = 0;  // a number, a length, a count
};

/// DAG-CBOR knows definite lengths only.
Head head(Bytes& in) {
  const uint8_t first = in.byte(), low = first & 0x1F;
  Head out{Major(first >> 5), low};
  if (low < 24) return out;
  if (low > 27) in.fail("CBOR: expected a definite length");
  out.value = 0;
  for (const char c : in.take(uint64_t{1} << (low - 24))) out.value = out.value << 8 | uint8_t(c);
  return out;
}

/// What belongs to one head: the bytes are taken, the number of items that follow is returned.
uint64_t items(Bytes& in, const Head& h) {
  const auto at_most = [&in](uint64_t count) {  // each takes a byte at least
    if (count > in.rest().size()) in.fail("CBOR: expected as many items as were announced: the block is cut off");
    return count;
  };
  switch (h.major) {
    case Major::bytes:
    case Major::text: in.take(h.value); return 0;
    case Major::array: return at_most(h.value);
    case Major::map: return 2 * at_most(h.value);
    case Major::tag: return 1;
    default: return 0;
  }
}

void skip(Bytes& in) {
  for (uint64_t left = 1; left > 0; --left) left += items(in, head(in));
}

std::string_view text(Bytes& in, const Head& h) {
  if (h.major != Major::text) in.fail("CBOR: expected text");
  return in.take(h.value);
}

/// Where the value of a key is, if `in` is a map that has it.
std::optional<Bytes> value_of(Bytes in, std::string_view wanted) {
  const Head map = head(in);
  if (map.major != Major::map) return std::nullopt;
  for (uint64_t i = 0; i < map.value; ++i) {
    if (text(in, head(in)) == wanted) return in;
    skip(in);
  }
  return std::nullopt;
}

struct Found {
  std::vector<Post> posts;
  std::vector<std::string_view> answered;  // the address that each post answers; may be empty
  std::string_view author;                 // the repository's
};

std::string_view answered_by(const Bytes& reply) {
  const std::optional<Bytes> parent = value_of(reply, "parent");
  std::optional<Bytes> uri = parent ? value_of(*parent, "uri") : std::nullopt;
  if (!uri) return {};
  const Head h = head(*uri);
  return h.major == Major::text ? uri->take(h.value) : std::string_view{};
}

/// Adds the block's post, if it is one; the repository's own block names its author.
void read_block(Bytes in, int64_t number, Found& found) {
  const Head map = head(in);
  if (map.major != Major::map) return;
  std::string_view type, words, did, answered;
  Post post;
  for (uint64_t i = 0; i < map.value; ++i) {
    const std::string_view key = text(in, head(in));
    Bytes value = in;
    skip(in);
    if (key == "reply") post.reply = true, answered = answered_by(value);
    if (key != "$type" && key != "text" && key != "did") continue;
    const Head h = head(value);
    if (h.major == Major::text) (key == "text" ? words : key == "did" ? did : type) = value.take(h.value);
  }
  if (type.empty() && !did.empty()) found.author = did;
  if (type != kBlueskyPost) return;
  post.text = words;
  post.line = number;
  found.posts.push_back(std::move(post));
  found.answered.push_back(answered);
}

/// Whether the block behind it is DAG-CBOR.
bool read_cid(Bytes& in) {
  if (in.rest().starts_with("\x12\x20")) {  // version 0
    in.take(34);
    return false;
  }
  if (in.varint() != 1) in.fail("expected a content identifier of version 1");
  const uint64_t codec = in.varint();
  in.varint();  // of the hash
  in.take(in.varint());
  constexpr uint64_t kDagCbor = 0x71;
  return codec == kDagCbor;
}

}  // namespace

std::vector<Post> read_car(std::string_view bytes, std::string_view where) {
  Bytes file(bytes, std::string(where));
  Bytes header(file.take(file.varint()), cat(where, ": header"));
  const Head map = head(header);
  if (map.major != Major::map) header.fail("expected a CAR file (a repository of Bluesky) or JSON, got something else");
  uint64_t version = 0;
  for (uint64_t i = 0; i < map.value; ++i) {
    const std::string_view key = text(header, head(header));
    Bytes value = header;
    skip(header);
    if (key == "version") version = head(value).value;
  }
  if (version != 1) header.fail(cat("expected version 1 of CAR, got ", version));
  Found found;
  for (int64_t number = 1; !file.empty(); ++number) {
    const std::string at = cat(where, ": block ", number);
    Bytes block(file.take(file.varint()), at);
    if (read_cid(block)) read_block(block, number, found);
  }
  const std::string own = cat("at://", found.author, "/");
  for (size_t i = 0; i < found.posts.size(); ++i) {  // who goes on below an own post answers nobody else
    if (!found.author.empty() && found.answered[i].starts_with(own)) found.posts[i].reply = false;
  }
  return std::move(found.posts);
}

}  // namespace bumblebee::dataset
