// Two machines in a row: thoughts first, then calls in what is said. Each takes single bytes, so that it cannot matter
// how they were cut.
#include "serve/chat/answer_parser.h"

#include <utility>

#include "serve/chat/answer_output.h"
#include "serve/chat/call_parser.h"
#include "serve/chat/thoughts.h"

namespace bumblebee::serve {
namespace {

AnswerFormat sensible(AnswerFormat format) {
  if (format.tool_names.empty()) format.tools = ToolFormat::none;
  return format;
}

std::unique_ptr<CallParser> make_call_parser(ToolFormat format, AnswerOutput& out) {
  switch (format) {
    case ToolFormat::hermes: return make_hermes_parser(out);
    case ToolFormat::llama: return make_llama_parser(out);
    case ToolFormat::mistral: return make_mistral_parser(out);
    case ToolFormat::harmony: return make_harmony_parser(out);
    case ToolFormat::gemma4: return make_gemma4_parser(out);
    case ToolFormat::qwen3_coder: return make_qwen3_coder_parser(out);
    case ToolFormat::seed_oss: return make_seed_oss_parser(out);
    case ToolFormat::glm: return make_glm_parser(out);
    case ToolFormat::deepseek: return make_deepseek_parser(out);
    case ToolFormat::granite: return make_granite_parser(out);
    case ToolFormat::phi4: return make_phi4_parser(out);
    case ToolFormat::none: break;
  }
  return nullptr;
}

class Parser final : public AnswerParser {
 public:
  explicit Parser(const AnswerFormat& format)
      : format_(sensible(format)),
        out_(format_),
        thoughts_(format_.reasoning, format_.in_thought, format_.certain_marks),
        calls_(make_call_parser(format_.tools, out_)) {}

  void push(std::string_view text, std::vector<AnswerEvent>& events) override {
    out_.to(events);
    for (const char c : text) {
      if (out_.enough()) return;
      thoughts_.push(c, reasoning_, answer_);
      give();
    }
  }

  void finish(std::vector<AnswerEvent>& events) override {
    if (out_.enough()) return;
    out_.to(events);
    thoughts_.finish(reasoning_, answer_);
    give();
    if (calls_) calls_->finish();
    out_.finish();
  }

  int calls() const override { return out_.calls(); }
  bool enough() const override { return out_.enough(); }
  bool in_thought() const override { return thoughts_.inside(); }

 private:
  void give() {
    out_.reasoning(reasoning_);
    reasoning_.clear();
    if (calls_) {
      for (const char c : answer_) calls_->push(c);
    } else {
      out_.content(answer_);
    }
    answer_.clear();
  }

  const AnswerFormat format_;
  AnswerOutput out_;
  Thoughts thoughts_;
  std::unique_ptr<CallParser> calls_;
  std::string reasoning_, answer_;  // of one byte
};

}  // namespace

std::unique_ptr<AnswerParser> make_answer_parser(const AnswerFormat& format) {
  return std::make_unique<Parser>(format);
}

}  // namespace bumblebee::serve
