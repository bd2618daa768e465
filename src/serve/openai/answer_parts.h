// Pieces that chats and completions have in common.
#pragma once

#include <string>
#include <string_view>

#include "serve/openai/answers.h"

namespace bumblebee::serve {

/// {"id", "object", "created", "model", "system_fingerprint" without the closing brace.
std::string answer_start(const AnswerHead& head, std::string_view object);
void append_usage(const Usage& usage, std::string& out);
void append_timings(const Usage& usage, const AnswerTimings& timings, std::string& out);
/// What ends a whole answer behind its choices, whose bracket it closes.
void append_answer_end(const AnswerShape& shape, const Usage& usage, const AnswerTimings& timings, std::string& out);
/// What ends every event of a stream behind its choices.
void append_chunk_end(const AnswerShape& shape, const DeltaExtras& extras, std::string& out);
/// The event at the stream's end that has nothing but the usage. `start` is the answer's.
void append_usage_chunk(std::string_view start, const Usage& usage, std::string& out);

}  // namespace bumblebee::serve
