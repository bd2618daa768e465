// Log probabilities in the two shapes that OpenAI's endpoints have.
#pragma once

#include <span>
#include <string>

#include "serve/openai/answers.h"

namespace bumblebee::serve {

/// {"content": [{"token", "logprob", "bytes", "top_logprobs"}], "refusal": null}
void append_chat_logprobs(std::span<const text::TokenLogprob> logprobs, const TokenBytes& bytes, std::string& out);
/// {"tokens", "token_logprobs", "top_logprobs", "text_offset"}; `offset`, in characters, goes on behind the tokens.
void append_text_logprobs(std::span<const text::TokenLogprob> logprobs, const TokenBytes& bytes, int64_t& offset,
                          std::string& out);

}  // namespace bumblebee::serve
