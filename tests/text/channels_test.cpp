// Channels of harmony and of Gemma 4 become the text that other models write.
#include "text/channels.h"

#include <gtest/gtest.h>

#include "tests/text/small_tokenizer.h"

namespace bumblebee::txt {
namespace {

const char* const kHarmony[] = {"<|start|>", "<|channel|>", "<|message|>", "<|constrain|>",
                                "<|end|>",   "<|return|>",  "<|call|>",    "<|endoftext|>"};
const char* const kGemma[] = {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|\"|>", "<turn|>"};

template <size_t N>
Tokenizer tokenizer_with(const char* const (&tokens)[N], bool special = true) {
  Json json = testing::small_tokenizer_json();
  int id = 300;
  for (const char* token : tokens) {
    json["added_tokens"].push_back({{"id", id++},
                                    {"content", token},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", special}});
  }
  return Tokenizer::from_bytes(json.dump(), {}, "channels");
}

/// As an answer's text is made of `written`: control tokens that are no marks are left out.
std::string text_of(const Tokenizer& tokenizer, const std::string& written) {
  std::optional<Channels> channels = Channels::of(tokenizer);
  std::string out;
  for (const int32_t id : tokenizer.encode(written, {.control = ControlTokens::parse})) {
    if (channels->reads(id)) {
      out += channels->mark(id);
    } else if (!tokenizer.is_special(id)) {
      out += channels->text(tokenizer.decode(std::vector<int32_t>{id}));
    }
  }
  return out + channels->flush();
}

TEST(Channels, OnlyWhereControlTokensHaveThem) {
  EXPECT_FALSE(Channels::of(testing::small_tokenizer()));
  EXPECT_FALSE(Channels::of(tokenizer_with(kHarmony, false)));
  EXPECT_TRUE(Channels::of(tokenizer_with(kHarmony)));
  EXPECT_TRUE(Channels::of(tokenizer_with(kGemma)));
  const char* const half[] = {"<|start|>", "<|channel|>"};
  EXPECT_FALSE(Channels::of(tokenizer_with(half)));
}

TEST(Channels, Harmony) {
  const Tokenizer tokenizer = tokenizer_with(kHarmony);
  const auto text = [&](const std::string& written) { return text_of(tokenizer, written); };
  EXPECT_EQ(text("<|channel|>analysis<|message|>Hm, hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello!"
                 "<|return|>"),
            "<think>\nHm, hm.\n</think>\n\nHello!");
  EXPECT_EQ(text("<|channel|>final<|message|>Hello!"), "Hello!");
  EXPECT_EQ(text("<|message|>Hello!"), "Hello!");
  EXPECT_EQ(text("<|channel|>analysis<|message|>one\n<|end|><|start|>assistant<|channel|>analysis<|message|>two<|end|>"
                 "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
                 "<|start|>assistant<|channel|>final<|message|>So."),
            "<think>\none\n\ntwo\n</think>\n\nI look.\nSo.");
  EXPECT_EQ(text("<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>a"), "a")
      << "a thought of nothing is none";
  EXPECT_EQ(text("<|channel|>final<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|>"
                 "<|start|>assistant<|channel|>final<|message|>c"),
            "a\n<think>\nb\n</think>\n\nc");
}

TEST(Channels, HarmonyThatIsCut) {
  const Tokenizer tokenizer = tokenizer_with(kHarmony);
  const auto text = [&](const std::string& written) { return text_of(tokenizer, written); };
  EXPECT_EQ(text("<|channel|>analysis<|message|>Hm"), "<think>\nHm") << "cut within a thought, it stays open";
  EXPECT_EQ(text("<|channel|>analysis<|message|>Hm<|end|>"), "<think>\nHm\n</think>");
  EXPECT_EQ(text("<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|chan"), "<think>\nHm\n</think>");
  EXPECT_EQ(text("<|channel|>anal"), "");
  EXPECT_EQ(text(""), "");
}

TEST(Channels, HarmonyThatIsNone) {
  const Tokenizer tokenizer = tokenizer_with(kHarmony);
  const auto text = [&](const std::string& written) { return text_of(tokenizer, written); };
  EXPECT_EQ(text("Once upon a time"), "Once upon a time");
  EXPECT_EQ(text(" to be"), " to be");
  EXPECT_EQ(text(" to="), " to=");
  EXPECT_EQ(text(" to=x\nor"), " to=x\nor");
  EXPECT_EQ(text("<|endoftext|>a<|constrain|>b<|end|>c"), "abc");
  const std::string far(600, 'x');
  EXPECT_EQ(text("<|channel|>" + far), "<|channel|>" + far) << "no header is so long";
  EXPECT_EQ(text(" to=" + far), " to=" + far);
}

/// One form for both orders of recipient and channel.
TEST(Channels, CallsOfHarmonyStay) {
  const Tokenizer tokenizer = tokenizer_with(kHarmony);
  const std::string call = "<|channel|>commentary to=functions.add<|message|>{\"a\": 1}<|call|>";
  for (const char* written : {" to=functions.add<|channel|>commentary json<|message|>{\"a\": 1}<|call|>",
                              "<|channel|>commentary to=functions.add <|constrain|>json<|message|>{\"a\": 1}<|call|>",
                              "<|channel|>commentary to=functions.add<|message|>{\"a\": 1}<|call|>",
                              "<|start|>assistant to=functions.add<|channel|>commentary<|message|>{\"a\": 1}<|call|>"})
    EXPECT_EQ(text_of(tokenizer, written), call) << written;
  EXPECT_EQ(text_of(tokenizer, std::string("<|channel|>analysis<|message|>Hm<|end|><|start|>assistant") + call),
            "<think>\nHm\n</think>\n\n" + call);
  EXPECT_EQ(text_of(tokenizer, "<|channel|>analysis to=python code<|message|>1+1"),
            "<|channel|>analysis to=python<|message|>1+1");
}

TEST(Channels, Gemma4) {
  const Tokenizer tokenizer = tokenizer_with(kGemma);
  const auto text = [&](const std::string& written) { return text_of(tokenizer, written); };
  EXPECT_EQ(text("<|channel>thought\nHm,\nhm.\n<channel|>Hello!<turn|>"), "<think>\nHm,\nhm.\n</think>\n\nHello!");
  EXPECT_EQ(text("<|channel>thought\nHm<channel|>Hello!"), "<think>\nHm\n</think>\n\nHello!");
  EXPECT_EQ(text("<|channel>thought\n<channel|>Hello!"), "Hello!") << "a thought of nothing is none";
  EXPECT_EQ(text("Hello!"), "Hello!");
  EXPECT_EQ(text(" to=x"), " to=x");
  EXPECT_EQ(text("<|channel>thought\nHm"), "<think>\nHm");
  EXPECT_EQ(text("<|channel>thou<channel|>a"), "a");
  EXPECT_EQ(text("<|channel>other\nthing"), "other\nthing");
  EXPECT_EQ(text("<|channel>thought\nHm\n<channel|><|tool_call>call:f{a:<|\"|>b<|\"|>}<tool_call|>"),
            "<think>\nHm\n</think>\n\n<|tool_call>call:f{a:<|\"|>b<|\"|>}<tool_call|>");
}

}  // namespace
}  // namespace bumblebee::txt
