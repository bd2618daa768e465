// The word lists and the line recipe of tools/goldens/text_tokens.py, byte for byte.
#include "tests/text/text_generator.h"

namespace bumblebee::testing {

namespace {

constexpr std::string_view kWords[] = {
    "the", "of", "and", "to", "in", "is", "that", "for", "it", "with", "as", "was", "on", "be", "at", "by", "this",
    "have", "from", "or", "had", "not", "are", "but", "what", "all", "were", "when", "we", "there", "can", "an",
    "your", "which", "their", "said", "if", "do", "will", "each", "about", "how", "up", "out", "them", "then", "she",
    "many", "some", "so", "these", "would", "other", "into", "has", "more", "her", "two", "like", "him", "see",
    "time", "could", "no", "make", "than", "first", "been", "its", "who", "now", "people", "my", "made", "over",
    "did", "down", "only", "way", "find", "use", "may", "water", "don't", "it's", "we're", "I'll", "they've", "you'd",
    "can't", "HELLO", "World", "iPhone", "eBay", "na\303\257ve", "caf\303\251", "r\303\251sum\303\251",
    "Z\303\274rich", "\305\202\303\263d\305\272", "sm\303\266rg\303\245sbord",
};

constexpr std::string_view kPieces[] = {
    "\346\227\245\346\234\254\350\252\236", "\344\270\255\346\226\207\345\255\227\347\254\246",
    "\355\225\234\352\265\255\354\226\264", "\321\200\321\203\321\201\321\201\320\272\320\270\320\271",
    "\330\247\331\204\330\271\330\261\330\250\331\212\330\251", "\327\242\327\221\327\250\327\231\327\252",
    "\316\265\316\273\316\273\316\267\316\275\316\271\316\272\316\254",
    "\340\244\271\340\244\277\340\244\250\340\245\215\340\244\246\340\245\200",
    "\340\271\204\340\270\227\340\270\242", "Ti\341\272\277ng Vi\341\273\207t", " Vi\341\273\207t", "e\314\201",
    "\341\204\222\341\205\241\341\206\253", "\357\254\201", "\342\221\240", "\302\275", "\303\205",
    "\360\237\221\251\342\200\215\360\237\221\251\342\200\215\360\237\221\247\342\200\215\360\237\221\246",
    "\360\237\207\251\360\237\207\252", "\360\237\221\215\360\237\217\275", "\342\200\213", "\302\240",
    "\343\200\200", "\357\273\277", "\011", "\015\012", "\012\012", "   ", "        ", "0", "42", "1234567890",
    "3.14159", "1e-10", "0x7fff", "$1,234.56", "50%", "==", "!=", "->", "::", "//", "/*", "*/", "#include <a.h>",
    "def f(x):", "return x+1;", "{}", "[]", "()", "...", "!!!", "\077\077\077", "--", "\342\200\224",
    "\342\200\234q\342\200\235", "'", "\"", "`", "<b>", "</p>", "https://example.org/a\077b=c&d=e",
    "user@example.com", "\\n", "\\u0041", "<0x41>", "<0xE4>", "\342\226\201", "\342\226\201\342\226\201a", "\304\240",
    "\304\212", "<think>", "</think>", "<tool_call>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>",
    "<bos>", "<eos>", "<start_of_turn>", "<s>", "</s>", "[INST]", std::string_view("\000", 1), "\007", "\177",
};

}  // namespace

std::string mixed_line(Lcg& rng) {
  std::string out;
  const uint64_t parts = 1 + rng.below(16);
  for (uint64_t i = 0; i < parts; ++i) {
    const uint64_t kind = rng.below(8);
    if (kind < 4) {
      out += kWords[rng.below(std::size(kWords))];
    } else if (kind < 6) {
      out += kPieces[rng.below(std::size(kPieces))];
    } else if (kind == 6) {
      out += utf8(static_cast<uint32_t>(0x20 + rng.below(0x2000 - 0x20)));
    } else {
      const char letter = static_cast<char>('a' + rng.below(26));
      out += std::string(1 + rng.below(20), letter);
    }
    if (rng.below(4) != 0) out += ' ';
  }
  return out;
}

}  // namespace bumblebee::testing
