// What the public tokenizer says of single tokens and of its template.
#include "bumblebee/tokenizer.h"

#include <gtest/gtest.h>

namespace bumblebee {
namespace {

TEST(PublicTokenizer, SaysWhatTokensAre) {
  const Tokenizer tokenizer = load_tokenizer(local(BB_TEST_DATA "/apps/tiny"));
  EXPECT_EQ(tokenizer.bytes_of(0xE4), "\xE4") << "half a character too";
  EXPECT_EQ(tokenizer.bytes_of('a'), "a");
  EXPECT_EQ(tokenizer.bytes_of(257), "<|im_start|>");
  EXPECT_EQ(tokenizer.bytes_of(259), std::nullopt);
  EXPECT_EQ(tokenizer.bytes_of(-1), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(257));
  EXPECT_FALSE(tokenizer.is_special('a'));
  EXPECT_FALSE(tokenizer.is_special(-1));
  EXPECT_FALSE(tokenizer.is_special(1000));
  EXPECT_EQ(tokenizer.max_token_bytes(), 13);
  EXPECT_TRUE(tokenizer.has_chat_template());
  EXPECT_NE(tokenizer.chat_template().find("add_generation_prompt"), std::string::npos);
}

}  // namespace
}  // namespace bumblebee
