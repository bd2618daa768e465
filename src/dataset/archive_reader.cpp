// JSON by its shape. The repository's blocks are car_reader.h's.
#include "dataset/archive_reader.h"

#include <nlohmann/json.hpp>

#include <charconv>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "dataset/car_reader.h"

namespace bumblebee::dataset {
namespace {

constexpr JsonLimits kArchiveLimits = {.bytes = size_t{1} << 30, .depth = 64};
constexpr std::string_view kSpace = " \t\r\n";

std::string at(std::string_view where, size_t index) { return cat(where, ": element ", index + 1); }

/// The UTF-16 unit that a \\uXXXX at `at` spells; 0 where there is none.
unsigned unit_at(std::string_view bytes, size_t at) {
  if (at + 6 > bytes.size() || bytes[at] != '\\' || bytes[at + 1] != 'u') return 0;
  unsigned unit = 0;
  const char* end = bytes.data() + at + 6;
  return std::from_chars(end - 4, end, unit, 16).ptr == end ? unit : 0;
}

/// Networks cut texts between the halves of a character: a half alone is U+FFFD, and no reason to refuse the archive.
Json parse_archive(std::string_view bytes, std::string_view where) {
  const auto high = [](unsigned unit) { return unit >= 0xD800 && unit < 0xDC00; };
  const auto low = [](unsigned unit) { return unit >= 0xDC00 && unit < 0xE000; };
  std::string mended;
  for (size_t at = bytes.find('\\'); at < bytes.size(); at = bytes.find('\\', at)) {
    const unsigned unit = unit_at(bytes, at);
    if (!high(unit) && !low(unit)) {
      at += 2;
    } else if (high(unit) && low(unit_at(bytes, at + 6))) {
      at += 12;
    } else {
      if (mended.empty()) mended = bytes;
      mended.replace(at, 6, "\\uFFFD");
      at += 6;
    }
  }
  return parse_json(mended.empty() ? bytes : mended, where, kArchiveLimits);
}

const Json* object_in(const Json& value, const char* key) {
  if (!value.is_object()) return nullptr;
  const auto found = value.find(key);
  return found == value.end() || !found->is_object() ? nullptr : &*found;
}

const std::string* text_in(const Json& value, const char* key) {
  if (!value.is_object()) return nullptr;
  const auto found = value.find(key);
  return found == value.end() || !found->is_string() ? nullptr : found->get_ptr<const std::string*>();
}

bool is_given(const Json& value, const char* key) {
  const auto found = value.find(key);
  return found != value.end() && !found->is_null() && *found != "";
}

/// Twitter keeps its texts escaped as for HTML.
std::string without_entities(std::string_view text) {
  constexpr std::pair<std::string_view, char> kEntities[] = {
      {"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&#39;", '\''}};
  std::string out;
  while (!text.empty()) {
    size_t taken = 1;
    char c = text.front();
    for (const auto& [entity, character] : kEntities) {
      if (text.starts_with(entity)) c = character, taken = entity.size();
    }
    out += c;
    text.remove_prefix(taken);
  }
  return out;
}

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

/// Twitter's own links stand for a picture, a quoted tweet or an address that nobody typed so.
std::string without_links(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    size_t head = 0;
    for (const std::string_view one : {"https://t.co/", "http://t.co/"}) {
      if (text.starts_with(one)) head = one.size();
    }
    if (head == 0) {
      out += text.front();
      text.remove_prefix(1);
      continue;
    }
    while (head < text.size() && is_word(text[head])) ++head;
    text.remove_prefix(head);
    while (out.ends_with(' ') && (text.empty() || kSpace.find(text.front()) != std::string_view::npos)) out.pop_back();
  }
  return out;
}

/// Twitter puts the names of those who are answered before the text.
std::string_view without_names(std::string_view text) {
  while (true) {
    text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
    if (!text.starts_with('@')) return text;
    size_t end = 1;
    while (end < text.size() && is_word(text[end])) ++end;
    if (end == 1 || (end < text.size() && kSpace.find(text[end]) == std::string_view::npos)) return text;
    text.remove_prefix(end);
  }
}

const Json& inside(const Json& element) {
  const Json* inner = object_in(element, "tweet");
  return inner == nullptr ? element : *inner;
}

/// Whom an archive is of: who goes on below a tweet of their own answers nobody else.
struct Owner {
  std::set<std::string_view> tweets, names;  // ids

  explicit Owner(const Json& list) {
    for (const Json& element : list) {
      if (const std::string* id = text_in(inside(element), "id_str")) tweets.insert(*id);
    }
    for (const Json& element : list) {
      const Json& one = inside(element);
      const Json* user = object_in(one, "user");
      if (const std::string* id = user == nullptr ? nullptr : text_in(*user, "id_str")) names.insert(*id);
      const std::string* name = text_in(one, "in_reply_to_user_id_str");
      if (name != nullptr && has(tweets, text_in(one, "in_reply_to_status_id_str"))) names.insert(*name);
    }
  }
  static bool has(const std::set<std::string_view>& ids, const std::string* id) {
    return id != nullptr && ids.contains(*id);
  }
  bool is_answered_by(const Json& one) const {
    return has(tweets, text_in(one, "in_reply_to_status_id_str")) ||
           has(names, text_in(one, "in_reply_to_user_id_str"));
  }
};

Post tweet(const Json& element, const Owner& owner, std::string_view where, int64_t index) {
  Post post;
  post.line = index;
  if (const Json* note = object_in(element, "noteTweet")) {  // the whole of a long tweet
    const Json* core = object_in(*note, "core");
    const std::string* text = core == nullptr ? nullptr : text_in(*core, "text");
    if (text == nullptr) throw Error(ErrorCode::bad_file, where, "expected text under 'noteTweet', 'core', 'text'");
    post.text = without_links(without_entities(*text));
    return post;
  }
  const Json& one = inside(element);
  const std::string* text = text_in(one, "full_text");
  if (text == nullptr) text = text_in(one, "text");
  if (text == nullptr) {
    throw Error(ErrorCode::bad_file, where,
                cat("expected a tweet ('tweet' with 'full_text', or 'noteTweet'), got ", brief(element)));
  }
  post.repost = text->starts_with("RT @") || is_given(one, "retweeted_status");
  post.reply = is_given(one, "in_reply_to_status_id") || is_given(one, "in_reply_to_status_id_str") ||
               is_given(one, "in_reply_to_user_id_str");
  const std::string plain = without_links(without_entities(*text));
  post.text = post.reply ? std::string(without_names(plain)) : plain;
  post.reply = post.reply && !owner.is_answered_by(one);
  return post;
}

/// The record that an element of one of the API's lists holds, if it is a post of the list's owner.
const Json* record_of(const Json& element) {
  const Json* record = &element;
  if (const Json* post = object_in(element, "post")) record = post;  // an item of a feed
  if (const Json* inner = object_in(*record, "record"))
    record = inner;  // a view of a post
  else if (const Json* value = object_in(*record, "value"))
    record = value;  // of listRecords
  const std::string* type = text_in(*record, "$type");
  return type != nullptr && *type == kBlueskyPost ? record : nullptr;
}

/// Who an address of Bluesky belongs to: at://WHO/what/which.
std::string_view owner_of(const std::string* uri) {
  constexpr std::string_view kHead = "at://";
  if (uri == nullptr || !uri->starts_with(kHead)) return {};
  return std::string_view(*uri).substr(kHead.size(), uri->find('/', kHead.size()) - kHead.size());
}

bool answers_oneself(const Json& view, const Json& record) {
  const Json* reply = object_in(record, "reply");
  const Json* parent = reply == nullptr ? nullptr : object_in(*reply, "parent");
  const std::string_view author = owner_of(text_in(view, "uri"));
  return parent != nullptr && !author.empty() && author == owner_of(text_in(*parent, "uri"));
}

Post bluesky(const Json& element, const Json& record, std::string_view where, int64_t index) {
  const std::string* text = text_in(record, "text");
  if (text == nullptr) throw Error(ErrorCode::bad_file, where, cat("expected a post with 'text', got ", brief(record)));
  Post post;
  post.text = *text;
  post.line = index;
  const Json* view = object_in(element, "post");
  post.reply = record.contains("reply") && !answers_oneself(view == nullptr ? element : *view, record);
  const Json* reason = object_in(element, "reason");  // why it is in the feed: a pinned post has one too
  const std::string* type = reason == nullptr ? nullptr : text_in(*reason, "$type");
  post.repost = view != nullptr && type != nullptr && type->ends_with("#reasonRepost");
  return post;
}

std::vector<Post> read_bluesky_json(std::string_view bytes, std::string_view where) {
  const Json json = parse_archive(bytes, where);
  Json alone = Json::array();
  const Json* list = &json;
  if (json.is_object()) {
    for (const char* key : {"records", "feed", "posts"}) {
      if (json.contains(key) && json[key].is_array()) list = &json[key];
    }
    if (list == &json) alone.push_back(json), list = &alone;
  }
  if (!list->is_array()) throw Error(ErrorCode::bad_file, where, cat("expected posts of Bluesky, got ", brief(json)));
  std::vector<Post> posts;
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& element = (*list)[i];
    if (const Json* record = record_of(element))
      posts.push_back(bluesky(element, *record, at(where, i), int64_t(i) + 1));
  }
  return posts;
}

}  // namespace

bool is_twitter(std::string_view bytes) {
  bytes.remove_prefix(std::min(bytes.find_first_not_of(kSpace), bytes.size()));
  return bytes.starts_with("window.YTD.");
}

bool is_bluesky_json(std::string_view bytes) {
  constexpr size_t kEnough = 1 << 16;  // the first record is among so many bytes
  return bytes.substr(0, kEnough).find(cat('"', kBlueskyPost, '"')) != std::string_view::npos;
}

std::vector<Post> read_twitter(std::string_view bytes, std::string_view where) {
  if (is_twitter(bytes)) {
    const size_t begin = bytes.find('=');
    if (begin == std::string_view::npos || begin > 200)
      throw Error(ErrorCode::bad_file, where, "expected 'window.YTD.tweets.part0 = [...]', got no '='");
    bytes.remove_prefix(begin + 1);
    const size_t last = bytes.find_last_not_of(" \t\r\n;");
    bytes = bytes.substr(0, last == std::string_view::npos ? 0 : last + 1);
  }
  const Json list = parse_archive(bytes, where);
  if (!list.is_array()) throw Error(ErrorCode::bad_file, where, cat("expected an array of tweets, got ", brief(list)));
  std::vector<Post> posts;
  const Owner owner(list);
  for (size_t i = 0; i < list.size(); ++i) posts.push_back(tweet(list[i], owner, at(where, i), int64_t(i) + 1));
  return posts;
}

std::vector<Post> read_bluesky(std::string_view bytes, std::string_view where) {
  const size_t first = bytes.find_first_not_of(kSpace);
  const bool json = first != std::string_view::npos && (bytes[first] == '{' || bytes[first] == '[');
  return json ? read_bluesky_json(bytes, where) : read_car(bytes, where);
}

}  // namespace bumblebee::dataset
