// Posts out of archives: what the user wrote, and nothing that others did.
#include "dataset/archive_reader.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace bumblebee::dataset {
namespace {

using Texts = std::vector<std::string>;

Texts texts(const std::vector<Post>& posts) {
  Texts out;
  for (const Post& post : posts) {
    if (!post.repost) out.push_back((post.reply ? "re: " : "") + post.text);
  }
  return out;
}

template <class Read>
std::string refusal(const Read& read) {
  try {
    read();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::bad_file);
    return error.what();
  }
  ADD_FAILURE() << "accepted";
  return {};
}

constexpr const char* kTweets = R"(window.YTD.tweets.part0 = [
  {"tweet": {"full_text": "Rain &amp; tea &lt;3 https://t.co/AbC123", "retweeted": false}},
  {"tweet": {"full_text": "RT @other: not my words"}},
  {"tweet": {"full_text": "@one @two_2 yes, @three too", "in_reply_to_status_id_str": "7"}},
  {"tweet": {"full_text": "@notareply is a name"}},
  {"tweet": {"full_text": "look https://t.co/xyz here"}}
] ;
)";

TEST(Twitter, TextsAreWhatWasWritten) {
  EXPECT_TRUE(is_twitter(kTweets));
  EXPECT_EQ(texts(read_twitter(kTweets, "tweets.js")),
            (Texts{"Rain & tea <3", "re: yes, @three too", "@notareply is a name", "look here"}));
  const std::vector<Post> all = read_twitter(kTweets, "tweets.js");
  ASSERT_EQ(all.size(), 5u);
  EXPECT_TRUE(all[1].repost);
  EXPECT_EQ(all[2].line, 3);
}

TEST(Twitter, LongTweetsAndOldArchives) {
  EXPECT_EQ(texts(read_twitter(R"(window.YTD.note_tweet.part0 = [{"noteTweet": {"core": {"text": "a long one"}}}])",
                               "note-tweet.js")),
            Texts{"a long one"});
  EXPECT_EQ(texts(read_twitter(R"([{"text": "of 2012"}])", "tweets.json")), Texts{"of 2012"});
}

TEST(Twitter, OwnThreadsAreNoReplies) {
  const std::string threads = R"(window.YTD.tweets.part0 = [
    {"tweet": {"id_str": "1", "full_text": "begun"}},
    {"tweet": {"id_str": "2", "full_text": "@friend on", "in_reply_to_status_id_str": "1",
               "in_reply_to_user_id_str": "9"}},
    {"tweet": {"full_text": "below a lost one", "in_reply_to_status_id_str": "0", "in_reply_to_user_id_str": "9"}},
    {"tweet": {"full_text": "@other's idea", "in_reply_to_status_id_str": "7", "in_reply_to_user_id_str": "8"}}])";
  EXPECT_EQ(texts(read_twitter(threads, "tweets.js")), (Texts{"begun", "on", "below a lost one", "re: @other's idea"}));
}

TEST(Twitter, HalfACharacterIsNoReasonToRefuse) {
  EXPECT_EQ(texts(read_twitter(R"([{"text": "\uD83D\uDE00 \uD83D, \uDE00 \\uD83D"}])", "tweets.json")),
            Texts{"\U0001F600 \uFFFD, \uFFFD \\uD83D"});
}

TEST(Twitter, OtherFilesOfTheArchiveAreRefused) {
  const std::string like =
      refusal([] { read_twitter(R"(window.YTD.like.part0 = [{"like": {"fullText": "x"}}])", "like.js"); });
  EXPECT_NE(like.find("[like.js: element 1] expected a tweet"), std::string::npos) << like;
  refusal([] { read_twitter("window.YTD.tweets.part0 [", "tweets.js"); });
  refusal([] { read_twitter("window.YTD.tweets.part0 = [{", "tweets.js"); });
}

std::string varint(size_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += char((value & 0x7F) | 0x80);
  return out + char(value);
}
std::string cbor(uint8_t major, size_t value) {
  if (value < 24) return {char((major << 5) | int(value))};
  return {char((major << 5) | 25), char(value >> 8), char(value)};
}
std::string text_item(const std::string& text) { return cbor(3, text.size()) + text; }
std::string post_block(const std::string& type, const std::string& text, const std::string& more = {}) {
  return cbor(5, more.empty() ? 2 : 3) + text_item("text") + text_item(text) + more + text_item("$type") +
         text_item(type);
}
/// A section: a CID of version 1 over DAG-CBOR with a hash of 32 bytes, and the block.
std::string section(const std::string& block, uint8_t codec = 0x71) {
  const std::string cid = std::string("\x01") + char(codec) + "\x12\x20" + std::string(32, 'h');
  return varint(cid.size() + block.size()) + cid + block;
}
std::string car(const std::string& sections, uint8_t version = 1) {
  // {"roots": [42(h'00...')], "version": 1}
  const std::string root = std::string("\xD8\x2A") + cbor(2, 37) + std::string(37, '\0');
  const std::string header = cbor(5, 2) + text_item("roots") + cbor(4, 1) + root + text_item("version") + char(version);
  return varint(header.size()) + header + sections;
}

TEST(Bluesky, ARepositoryGivesItsPosts) {
  const std::string reply = text_item("reply") + cbor(5, 1) + text_item("root") + cbor(4, 2) + cbor(0, 1) + cbor(7, 22);
  const std::string bytes =
      car(section(post_block("app.bsky.feed.post", "Grüße vom Balkon")) +
          section(post_block("app.bsky.feed.like", "nobody's")) + section(cbor(4, 1) + cbor(0, 5)) +
          section("raw bytes", 0x55) + section(post_block("app.bsky.feed.post", std::string(300, 'x'), reply)));
  EXPECT_EQ(texts(read_bluesky(bytes, "me.car")), (Texts{"Grüße vom Balkon", "re: " + std::string(300, 'x')}));
  EXPECT_EQ(read_bluesky(bytes, "me.car").back().line, 5);
}

TEST(Bluesky, OwnThreadsOfARepositoryAreNoReplies) {
  const auto to = [](const std::string& uri) {
    return text_item("reply") + cbor(5, 1) + text_item("parent") + cbor(5, 1) + text_item("uri") + text_item(uri);
  };
  const std::string bytes = car(section(post_block("app.bsky.feed.post", "on", to("at://did:plc:me/post/1"))) +
                                section(post_block("app.bsky.feed.post", "yes", to("at://did:plc:you/post/1"))) +
                                section(cbor(5, 1) + text_item("did") + text_item("did:plc:me")));
  EXPECT_EQ(texts(read_bluesky(bytes, "me.car")), (Texts{"on", "re: yes"}));
}

TEST(Bluesky, BrokenRepositoriesNameTheirBlock) {
  const std::string good = car(section(post_block("app.bsky.feed.post", "words")));
  for (size_t cut = 1; cut < good.size(); ++cut) {
    try {
      EXPECT_TRUE(read_bluesky(good.substr(0, cut), "me.car").empty()) << cut;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::bad_file);
    }
  }
  EXPECT_NE(refusal([&] { read_bluesky(good.substr(0, good.size() - 1), "me.car"); }).find("cut off"),
            std::string::npos);
  EXPECT_NE(refusal([&] { read_bluesky(car({}, 2), "me.car"); }).find("version 1"), std::string::npos);
  refusal([] { read_bluesky("plain text, no archive", "me.txt"); });
  // Announces 2^64 - 1 items, and nests as deep as it is long.
  refusal([] { read_bluesky(car(section("\xBB\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF")), "me.car"); });
  refusal([] { read_bluesky(car(section("\xA1\x61x" + std::string(1 << 20, '\x81'))), "me.car"); });
}

TEST(Bluesky, JsonOfTheApiWithoutTheWordsOfOthers) {
  const std::string records = R"({"records": [
    {"uri": "at://x", "value": {"$type": "app.bsky.feed.post", "text": "mine"}},
    {"uri": "at://y", "value": {"$type": "app.bsky.feed.like", "subject": {}}}], "cursor": "z"})";
  EXPECT_TRUE(is_bluesky_json(records));
  EXPECT_EQ(texts(read_bluesky(records, "posts.json")), Texts{"mine"});
  const std::string feed = R"({"feed": [
    {"post": {"record": {"$type": "app.bsky.feed.post", "text": "mine", "reply": {}},
              "embed": {"record": {"value": {"$type": "app.bsky.feed.post", "text": "quoted"}}}},
     "reply": {"parent": {"record": {"$type": "app.bsky.feed.post", "text": "asked"}}}},
    {"post": {"record": {"$type": "app.bsky.feed.post", "text": "of another"}},
     "reason": {"$type": "app.bsky.feed.defs#reasonRepost"}}]})";
  EXPECT_EQ(texts(read_bluesky(feed, "feed.json")), Texts{"re: mine"});
  const std::string own = R"({"feed": [
    {"post": {"uri": "at://did:plc:me/p/2", "record": {"$type": "app.bsky.feed.post", "text": "pinned",
              "reply": {"parent": {"uri": "at://did:plc:me/p/1"}}}},
     "reason": {"$type": "app.bsky.feed.defs#reasonPin"}}]})";
  EXPECT_EQ(texts(read_bluesky(own, "feed.json")), Texts{"pinned"}) << "neither a repost nor an answer to others";
  EXPECT_EQ(texts(read_bluesky(R"([{"$type": "app.bsky.feed.post", "text": "alone"}])", "a.json")), Texts{"alone"});
  EXPECT_EQ(texts(read_bluesky(R"({"$type": "app.bsky.feed.post", "text": "one"})", "a.json")), Texts{"one"});
  EXPECT_FALSE(is_bluesky_json(R"([{"text": "x"}])"));
}

}  // namespace
}  // namespace bumblebee::dataset
