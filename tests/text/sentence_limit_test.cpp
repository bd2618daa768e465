// Where a text ends that would go on beyond its limit, whatever the pieces.
#include "text/sentence_limit.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/utf8.h"

namespace bumblebee::txt {
namespace {

struct Ended {
  std::string text;
  bool full = false;
  friend bool operator==(const Ended&, const Ended&) = default;
};

Ended limited(const std::string& text, int64_t least, int64_t most, size_t piece) {
  SentenceLimit limit(least, most);
  Ended out;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.size(), at + piece);
    while (end < text.size() && (uint8_t(text[end]) & 0xC0) == 0x80) ++end;
    out.text += limit.push(std::string_view(text).substr(at, end - at));
    at = end;
  }
  out.text += limit.flush();
  out.full = limit.full();
  return out;
}

Ended end(const std::string& text, int64_t least, int64_t most) {
  const Ended whole = limited(text, least, most, text.size());
  for (const size_t piece : {1, 2, 7}) EXPECT_EQ(limited(text, least, most, piece), whole) << text << " by " << piece;
  EXPECT_LE(count_characters(whole.text), most);
  EXPECT_TRUE(text.starts_with(whole.text));
  return whole;
}

std::string ended(const std::string& text, int64_t most, int64_t least = 0) {
  const Ended got = end(text, least, most);
  EXPECT_TRUE(got.full) << text;
  return got.text;
}

TEST(SentenceLimit, EndsWithTheLastSentenceThatFits) {
  EXPECT_EQ(ended("One two. Three four. Five six.", 25), "One two. Three four.");
  EXPECT_EQ(ended("One two. Three four. Five six.", 20), "One two. Three four.");
  EXPECT_EQ(ended("One two. Three four. Five six.", 19), "One two.");
  EXPECT_EQ(ended("Really? Yes! And on", 15), "Really? Yes!");
  EXPECT_EQ(ended("He said \"no.\" Then he went", 18), "He said \"no.\"");
  EXPECT_EQ(ended("First line\nsecond line", 15), "First line");
  EXPECT_EQ(ended("What I need:\n- rest. And then more", 22), "What I need:\n- rest.");
  EXPECT_EQ(ended("今日は晴れ。明日は雨でしょう。", 8), "今日は晴れ。");
  EXPECT_EQ(ended("Größe zählt. Über alles", 14), "Größe zählt.") << "characters, not bytes";
}

TEST(SentenceLimit, KnowsWhatIsNoEnd) {
  EXPECT_EQ(ended("It is so. Pi is 3.14 about, e.g. Dr. Who or J. Smith, and more", 55), "It is so.");
  EXPECT_EQ(ended("Well... maybe not so. Or", 22), "Well... maybe not so.");
  EXPECT_EQ(ended("See example.com for it all. Or", 28), "See example.com for it all.");
}

TEST(SentenceLimit, WithoutASentenceItEndsWithAWord) {
  EXPECT_EQ(ended("one two three four", 12), "one two");
  EXPECT_EQ(ended("one two three four", 13), "one two three");
  EXPECT_EQ(ended("onetwothreefour", 5), "onetw");
  EXPECT_EQ(ended("Short. And then a long one that goes", 20, 10), "Short. And then a") << "the sentence is too short";
  EXPECT_EQ(ended("One. aaaaaaaaaaaaaaaaaaaaaaaaa", 12, 10), "One. aaaaaaa");
  EXPECT_EQ(ended("one two   threefour", 13, 7), "one two");
  EXPECT_EQ(ended("one two   threefour", 13, 9), "one two   thr") << "blanks that go do not count";
  EXPECT_EQ(ended("voilà à à", 8), "voilà à");
}

TEST(SentenceLimit, WhatFitsIsLeftAlone) {
  EXPECT_EQ(end("One two. And a", 0, 14), (Ended{"One two. And a", false}));
  EXPECT_EQ(end("no mark ", 0, 100), (Ended{"no mark ", false}));
  SentenceLimit none(0, 0);
  EXPECT_EQ(none.push("half a wo"), "half a wo") << "nothing is held back";
  EXPECT_EQ(none.characters(), 9);
  EXPECT_EQ(none.push("  \n"), "  \n");
  EXPECT_EQ(none.characters(), 9) << "blanks at the end do not count yet";
  EXPECT_EQ(none.push("é"), "é");
  EXPECT_EQ(none.characters(), 13);
}

TEST(SentenceLimit, GivesOutWholeSentences) {
  SentenceLimit limit(0, 40);
  EXPECT_EQ(limit.push("One two."), "");
  EXPECT_EQ(limit.push(" Three"), "One two.");
  EXPECT_EQ(limit.push(" four."), "");
  EXPECT_EQ(limit.flush(), " Three four.");
}

TEST(SentenceLimit, AMarkByteIsNoCharacter) {
  SentenceLimit limit(0, 4);
  const std::string text = "\xFFwxyz";
  EXPECT_EQ(limit.push(text), "");
  EXPECT_EQ(limit.flush(), text);
  EXPECT_FALSE(limit.full());
  EXPECT_EQ(limit.characters(), 4);
}

}  // namespace
}  // namespace bumblebee::txt
