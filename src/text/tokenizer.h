// Text to ids and back, with the field's own engine (Hugging Face tokenizers) behind hf/: the ids are Hugging Face's
// for every text. What is added here is safety: any bytes are accepted, user text cannot spell a control token, hostile
// files give a named error, long runs cost linear time. Knows no tensors and no models.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "text/rendered_prompt.h"
#include "text/token_bytes.h"
#include "text/tokenizer_config.h"

namespace bumblebee::txt {

/// What to do with control tokens (`special: true`, such as <|im_start|>) spelled in a text.
enum class ControlTokens {
  as_text,  ///< ordinary characters: no control id can come out. Right for anything a user wrote.
  parse,    ///< they become their ids, as `tokenizer(text)` does in transformers. Right for text the program wrote.
};

struct EncodeOptions {
  bool add_special_tokens = true;  ///< run the post-processor: <bos> and friends, where the file asks for them
  ControlTokens control = ControlTokens::as_text;
};

/// A token that stands beside the model's own vocabulary. `special` ones are the control tokens.
struct AddedToken {
  int32_t id = 0;
  std::string text;
  bool special = false;
};

/// Immutable after loading; every member may be called from any thread. A copy is a counted handle.
class Tokenizer {
 public:
  /// Reads `tokenizer.json` (required) and, where present, `tokenizer_config.json`, `special_tokens_map.json`.
  /// Throws Error(bad_file | bad_config | unsupported).
  static Tokenizer load(const std::filesystem::path& directory);
  /// The same from memory; `where` names the source in errors.
  static Tokenizer from_bytes(std::string_view tokenizer_json, TokenizerConfig config = {},
                              std::string_view where = "tokenizer.json");

  /// Ids are Hugging Face's. Only past these sizes may a text be cut, at a border that no token crosses where there is
  /// one: a text of more than 1 MiB (byte-level tokenizers), a single word of more than 64 KiB. At most 64 MiB:
  /// Error(bad_request). Bytes that are not UTF-8 become U+FFFD, one for each maximal broken part, as Python's
  /// errors="replace" does.
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;
  std::vector<std::vector<int32_t>> encode_batch(std::span<const std::string> texts,
                                                 const EncodeOptions& options = {}) const;
  /// A rendered chat: control tokens that the template wrote become ids, those spelled by message content stay text.
  /// Adds no special tokens (a template writes its own), as `apply_chat_template(tokenize=True)` does.
  std::vector<int32_t> encode(const RenderedPrompt& prompt) const;

  /// Throws Error(bad_request) for an id outside [0, vocab_size()). Incomplete UTF-8 becomes U+FFFD.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  std::optional<int32_t> id_of(std::string_view token) const;
  std::optional<std::string> token_of(int32_t id) const;
  /// One past the greatest id, added tokens included (a model's logits may be wider: padding rows have no token).
  int vocab_size() const;
  bool is_special(int32_t id) const;
  bool is_control(int32_t id) const { return is_special(id); }
  /// Whether unknown characters are spelled in byte tokens (<0xE4>), which are only text as a whole run.
  bool has_byte_fallback() const;
  /// What an id adds to a text, where that does not depend on its neighbours but for spaces that are dropped at the
  /// start of the whole: not always whole characters. Nothing for all ids where the decoder is not so.
  std::optional<std::string_view> token_bytes(int32_t id) const;
  /// The same of all ids; null where the decoder is not so.
  const TokenBytes* token_table() const;
  /// No token stands for more bytes of a text; 0 where that is not known.
  int max_token_bytes() const;
  /// Ordered by id.
  const std::vector<AddedToken>& added_tokens() const;
  const TokenizerConfig& config() const;

  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  std::optional<int32_t> pad_id() const;
  std::optional<int32_t> unk_id() const;

 private:
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

/// Decodes token by token. The pieces, joined and followed by flush(), are decode() of all the ids: a piece is held
/// back while it may still change (half a UTF-8 character, byte fallback, a leading-space rule). One per sequence; not
/// thread-safe.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer, bool skip_special = true);

  /// The text that this id made certain, often empty. Throws Error(bad_request) for an id out of range.
  std::string push(int32_t id);
  /// What is still held back; incomplete UTF-8 comes out as U+FFFD. The decoder is then as new.
  std::string flush();

 private:
  // With a table, bytes are put together here.
  std::string push_bytes(int32_t id);
  void end_run();
  std::string take(bool all);

  // Without one, the text of a window of ids with and without the newest one is compared.
  std::string push_window(int32_t id);
  /// Keeps the last ids as left context, so that a step costs a few tokens and not the whole text.
  void shorten(size_t keep);

  Tokenizer tokenizer_;
  bool skip_special_;
  const TokenBytes* table_;  ///< the tokenizer's
  std::string held_;         ///< bytes not given out yet
  std::string run_;          ///< of byte fallback
  size_t stripped_ = 0;      ///< how much was dropped at the start; all that may be once other text came

  std::vector<int32_t> ids_;
  size_t context_ = 0;  ///< ids_ before this are only context
  size_t given_ = 0;    ///< bytes of decode(ids_) that have been given out
};

}  // namespace bumblebee::txt
