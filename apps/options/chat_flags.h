// Flags that shape a conversation before the model sees it: system prompt, template, its variables, tools.
#pragma once

#include <string>
#include <vector>

#include "bumblebee/tokenizer.h"
#include "options/parser.h"

namespace bumblebee::cli {

struct ChatFlags {
  std::string system_prompt;
  std::string chat_template, chat_template_file, chat_template_kwargs, tools;
  bool no_thinking = false;
  bool trust_content = false;

  /// Reads the files that the flags name. Throws UsageError for contradictions and for JSON that is not of the expected
  /// kind.
  ChatOptions options() const;
};

/// Throws UsageError where --chat-template is no template, and Error(bad_file) where the file of --chat-template-file
/// holds none. `options` are what the flags gave.
void check_template(const Tokenizer& tokenizer, const ChatFlags& flags, const ChatOptions& options);

/// Renders `messages` with and without what the flags gave: throws Error(unsupported) where the model's template has no
/// place for --tools, so that the model would not see them, and notes variables of the template that it does not use.
void check_effects(const Tokenizer& tokenizer, const std::vector<Message>& messages, const ChatOptions& options);

/// Returns them all: what renders no conversation excludes them.
std::vector<const Option*> add_chat_flags(Parser& verb, ChatFlags& flags);

/// The messages of a file: {"messages": [...]}, as chat's /save writes it, or the list alone. Throws Error(bad_file).
std::vector<Message> read_conversation(const std::string& path);

}  // namespace bumblebee::cli
