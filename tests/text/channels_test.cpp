// Channels of harmony and of Gemma 4 become the text that other models write.
#include "text/channels.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/text/small_tokenizer.h"

namespace bumblebee::txt {
namespace {

const char* const kHarmony[] = {"<|start|>", "<|channel|>", "<|message|>", "<|constrain|>",
                                "<|end|>",   "<|return|>",  "<|call|>",    "<|endoftext|>"};
const char* const kGemma[] = {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|\"|>", "<turn|>"};

using testing::small_tokenizer_with;

/// As an answer's text is made of `written`: control tokens that are no marks are left out. Between two @ stands what
/// comes as ordinary text, whatever it is. `show`: says what a part becomes.
template <class Show>
std::string text_of(const Tokenizer& tokenizer, const std::string& written, Show show) {
  std::optional<Channels> channels = Channels::of(tokenizer);
  std::string out;
  const auto add = [&](const Channels::Parts& parts) {
    for (const Channels::Part& part : parts) out += show(part);
  };
  bool plain = false;
  for (size_t at = 0; at <= written.size(); plain = !plain) {
    const size_t end = std::min(written.find('@', at), written.size());
    const auto control = plain ? ControlTokens::as_text : ControlTokens::parse;
    for (const int32_t id : tokenizer.encode(written.substr(at, end - at), {.control = control})) {
      if (channels->reads(id)) {
        add(channels->mark(id));
      } else if (!tokenizer.is_special(id)) {
        add(channels->text(tokenizer.decode(std::vector<int32_t>{id})));
      }
    }
    at = end + 1;
  }
  add(channels->flush());
  return out;
}

std::string text_of(const Tokenizer& tokenizer, const std::string& written) {
  return text_of(tokenizer, written, [](const Channels::Part& part) {
    return part.kind == Channels::Part::Kind::header ? std::string() : part.text;
  });
}

/// Marks in brackets, what the model did not write in braces.
std::string parts_of(const Tokenizer& tokenizer, const std::string& written) {
  return text_of(tokenizer, written, [](const Channels::Part& part) -> std::string {
    switch (part.kind) {
      case Channels::Part::Kind::said: return part.text;
      case Channels::Part::Kind::made: return '{' + part.text + '}';
      case Channels::Part::Kind::mark: return '[' + part.text + ']';
      case Channels::Part::Kind::header: return '(' + part.text + ')';
      case Channels::Part::Kind::token: return ".";
    }
    return {};
  });
}

TEST(Channels, OnlyWhereControlTokensHaveThem) {
  EXPECT_FALSE(Channels::of(testing::small_tokenizer()));
  EXPECT_FALSE(Channels::of(small_tokenizer_with(kHarmony, false)));
  EXPECT_TRUE(Channels::of(small_tokenizer_with(kHarmony)));
  EXPECT_TRUE(Channels::of(small_tokenizer_with(kGemma)));
  const char* const half[] = {"<|start|>", "<|channel|>"};
  EXPECT_FALSE(Channels::of(small_tokenizer_with(half)));
}

TEST(Channels, Harmony) {
  const Tokenizer tokenizer = small_tokenizer_with(kHarmony);
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
  const Tokenizer tokenizer = small_tokenizer_with(kHarmony);
  const auto text = [&](const std::string& written) { return text_of(tokenizer, written); };
  EXPECT_EQ(text("<|channel|>analysis<|message|>Hm"), "<think>\nHm") << "cut within a thought, it stays open";
  EXPECT_EQ(text("<|channel|>analysis<|message|>Hm<|end|>"), "<think>\nHm\n</think>");
  EXPECT_EQ(text("<|channel|>analysis<|message|>Hm<|end|><|start|>assis"), "<think>\nHm\n</think>");
  EXPECT_EQ(text("<|channel|>anal"), "");
  EXPECT_EQ(text(""), "");
}

TEST(Channels, HarmonyThatIsNone) {
  const Tokenizer tokenizer = small_tokenizer_with(kHarmony);
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

TEST(Channels, ALaterThoughtOfNothingEndsTheOneBefore) {
  EXPECT_EQ(text_of(small_tokenizer_with(kHarmony),
                    "<|channel|>analysis<|message|>one<|end|><|start|>assistant<|channel|>analysis<|message|><|end|>"
                    "<|start|>assistant<|channel|>final<|message|>Hello"),
            "<think>\none\n</think>\n\nHello");
  EXPECT_EQ(
      text_of(small_tokenizer_with(kGemma), "<|channel>thought\none\n<channel|><|channel>thought\n<channel|>Hello"),
      "<think>\none\n</think>\n\nHello");
  EXPECT_EQ(
      text_of(small_tokenizer_with(kGemma), "<|channel>thought\none<channel|><|channel>thought\ntwo<channel|>Hello"),
      "<think>\none\ntwo\n</think>\n\nHello");
}

TEST(Channels, HeadersThatNeverEnd) {
  const Tokenizer tokenizer = small_tokenizer_with(kHarmony);
  const auto text = [&](const std::string& written) { return text_of(tokenizer, written); };
  for (const char* end : {"", "<|end|>", "<|return|>"}) {
    EXPECT_EQ(text("<|channel|>The answer is 4." + std::string(end)), "The answer is 4.") << end;
    EXPECT_EQ(text("<|channel|>final\nHello" + std::string(end)), "Hello") << end;
    EXPECT_EQ(text("<|channel|>finally" + std::string(end)), "finally") << end;
    EXPECT_EQ(text("<|channel|>analysis<|message|>Hm<|end|><|start|>So: 4." + std::string(end)),
              "<think>\nHm\n</think>\n\nSo: 4.")
        << end;
    for (const char* header : {"fin", "final", "commentary to=functions.f", "commentary to=functions.f json"})
      EXPECT_EQ(text("<|start|>assistant<|channel|>" + std::string(header) + end), "") << header << end;
  }
  EXPECT_EQ(text_of(small_tokenizer_with(kGemma), "<|channel>The answer"), "The answer");
  EXPECT_EQ(text_of(small_tokenizer_with(kGemma), "<|channel>The answer<channel|> is"), "The answer is");
}

TEST(Channels, TheFirstPieceIsSaid) {
  const Tokenizer tokenizer = small_tokenizer_with(kHarmony);
  EXPECT_EQ(text_of(tokenizer, "a<|channel|>final<|message|>b"), "a\nb");
  EXPECT_EQ(text_of(tokenizer, "ab<|channel|>final<|message|>c"), "ab\nc");
}

TEST(Channels, PartsSayWhatTheModelWrote) {
  EXPECT_EQ(parts_of(small_tokenizer_with(kHarmony),
                     "<|channel|>analysis<|message|>a@</think>@<|end|><|start|>assistant"
                     "<|channel|>final<|message|>@<|call|>@"),
            ".(analysis).[<think>]{\n}a</think>..(assistant).(final).{\n}[</think>]{\n\n}<|call|>");
  EXPECT_EQ(parts_of(small_tokenizer_with(kHarmony),
                     "<|channel|>@a<|channel|>commentary to=functions.f@<|message|>{}<|call|>"),
            ".(a<|channel|>commentary to=functions.f).[<|channel|>]{a to=functions.f}[<|message|>]{}.[<|call|>]");
  EXPECT_EQ(parts_of(small_tokenizer_with(kGemma), "<|tool_call>call:f{a:<|\"|>@<|\"|>@<|\"|>}<tool_call|>"),
            ".[<|tool_call>]call:f{a:.[<|\"|>]<|\"|>.[<|\"|>]}.[<tool_call|>]");
}

/// One form for both orders of recipient and channel.
TEST(Channels, CallsOfHarmonyStay) {
  const Tokenizer tokenizer = small_tokenizer_with(kHarmony);
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
  const Tokenizer tokenizer = small_tokenizer_with(kGemma);
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
