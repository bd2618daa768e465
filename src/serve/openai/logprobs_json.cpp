// A token's text may be a part of a character: `bytes` say which, the text has U+FFFD there.
#include "serve/openai/logprobs_json.h"

#include <algorithm>

#include "base/utf8.h"
#include "serve/openai/json_out.h"

namespace bumblebee::serve {
namespace {

void append_token(int32_t token, double logprob, const TokenBytes& bytes, std::string& out) {
  const std::string text = bytes(token);
  out += R"({"token":)";
  append_string(text, out);
  out += R"(,"logprob":)";
  append_number(logprob, out);
  out += R"(,"bytes":[)";
  for (size_t i = 0; i < text.size(); ++i) {
    if (i > 0) out += ',';
    append_integer(uint8_t(text[i]), out);
  }
  out += ']';
}

/// One value for each of `logprobs`.
template <class Write>
void append_each(const char* name, std::span<const text::TokenLogprob> logprobs, std::string& out, const Write& write) {
  out += name;
  for (size_t i = 0; i < logprobs.size(); ++i) {
    if (i > 0) out += ',';
    write(i);
  }
  out += ']';
}

}  // namespace

void append_chat_logprobs(std::span<const text::TokenLogprob> logprobs, const TokenBytes& bytes, std::string& out) {
  append_each(R"({"content":[)", logprobs, out, [&](size_t i) {
    append_token(logprobs[i].token, logprobs[i].logprob, bytes, out);
    out += R"(,"top_logprobs":[)";
    for (size_t k = 0; k < logprobs[i].top.size(); ++k) {
      if (k > 0) out += ',';
      append_token(logprobs[i].top[k].first, logprobs[i].top[k].second, bytes, out);
      out += '}';
    }
    out += "]}";
  });
  out += R"(,"refusal":null})";
}

void append_text_logprobs(std::span<const text::TokenLogprob> logprobs, const TokenBytes& bytes, int64_t& offset,
                          std::string& out) {
  std::vector<std::string> texts;
  for (const text::TokenLogprob& logprob : logprobs) texts.push_back(bytes(logprob.token));
  append_each(R"({"tokens":[)", logprobs, out, [&](size_t i) { append_string(texts[i], out); });
  append_each(R"(,"token_logprobs":[)", logprobs, out, [&](size_t i) { append_number(logprobs[i].logprob, out); });
  append_each(R"(,"top_logprobs":[)", logprobs, out, [&](size_t i) {
    std::vector<std::string> keys;  // several tokens may have one text: the likeliest of them is the one that is shown
    out += '{';
    for (const auto& [token, logprob] : logprobs[i].top) {
      std::string key;
      append_string(bytes(token), key);
      if (std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
      if (!keys.empty()) out += ',';
      out += key;
      out += ':';
      append_number(logprob, out);
      keys.push_back(std::move(key));
    }
    out += '}';
  });
  append_each(R"(,"text_offset":[)", logprobs, out, [&](size_t i) {
    append_integer(offset, out);
    offset += count_characters(texts[i]);
  });
  out += '}';
}

}  // namespace bumblebee::serve
