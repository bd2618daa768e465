// Tokenizer over the C ABI of hf/: loading, limits, and ids as the rest of the program counts them (int32_t).
#include "text/tokenizer.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <unordered_set>

#include "base/foreign_file.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "rust/bridge.h"

namespace bumblebee::txt {

namespace {

// The largest real one is about 35 MB (Gemma 3); a parsed file takes some ten times its size.
constexpr size_t kMaxFileBytes = size_t{128} << 20;
// The engine's offsets and splits cost some 40 to 100 bytes for each byte of text.
constexpr size_t kMaxTextBytes = size_t{64} << 20;

struct FreeTokenizer {
  void operator()(BbTokenizer* raw) const { bb_tokenizer_free(raw); }
};

std::string special_tokens_json(const TokenizerConfig& config) {
  Json list = Json::array();
  for (const DeclaredToken& token : config.declared_tokens) {
    list.push_back({{"content", token.text},
                    {"id", token.id},
                    {"special", token.special},
                    {"single_word", token.single_word},
                    {"lstrip", token.lstrip},
                    {"rstrip", token.rstrip},
                    {"normalized", token.normalized}});
  }
  for (const std::string& text : config.additional_special_tokens) list.push_back({{"content", text}});
  for (const auto& [name, text] : config.named_tokens) list.push_back({{"content", text}});
  return list.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::optional<TokenBytes> read_token_bytes(const BbTokenizer* tokenizer) {
  rust::Bytes kinds, bytes, strip;
  rust::Ids ends;
  size_t strip_count = 0;
  if (bb_token_bytes(tokenizer, kinds.out(), ends.out(), bytes.out(), strip.out(), &strip_count) == 0)
    return std::nullopt;
  TokenBytes table{.tokens = {}, .bytes = bytes.str(), .strip = strip.str(), .strip_count = strip_count};
  table.tokens.reserve(ends.values().size());
  for (size_t i = 0; i < ends.values().size(); ++i) {
    const int kind = kinds.text()[i];
    table.tokens.push_back(
        {.kind = TokenBytes::Kind(kind & ~BB_SPECIAL), .special = (kind & BB_SPECIAL) != 0, .end = ends.values()[i]});
  }
  return table;
}

std::vector<int32_t> to_ids(const rust::Ids& ids) { return {ids.values().begin(), ids.values().end()}; }

}  // namespace

struct Tokenizer::Impl {
  std::unique_ptr<BbTokenizer, FreeTokenizer> raw;
  TokenizerConfig config;
  std::vector<AddedToken> added;
  std::unordered_set<int32_t> special;
  int vocab_size = 0, max_token_bytes = 0;
  bool byte_fallback = false;
  std::optional<TokenBytes> token_bytes;
  std::optional<int32_t> bos, eos, pad, unk;

  /// What tokenizer_config.json says of an end of a text, where tokenizer.json's post-processor does the opposite.
  enum class Change : uint8_t { none, add, remove };
  Change at_begin = Change::none, at_end = Change::none;

  std::optional<int32_t> id_of(std::string_view token) const {
    uint32_t id = 0;
    if (bb_id_of(raw.get(), rust::view(token), &id) == 0) return std::nullopt;
    return static_cast<int32_t>(id);
  }

  std::vector<int32_t> encode(std::string_view text, uint32_t flags, std::span<const BbSpan> guards) const {
    if (text.size() > kMaxTextBytes) {
      throw Error(ErrorCode::bad_request, "tokenizer",
                  cat("text: expected at most ", kMaxTextBytes, " bytes, got ", text.size()));
    }
    rust::Ids ids;
    rust::Bytes error;
    rust::check(bb_encode(raw.get(), rust::view(text), flags, guards.data(), guards.size(), ids.out(), error.out()),
                error, "tokenizer");
    std::vector<int32_t> result = to_ids(ids);
    if ((flags & BB_ADD_SPECIAL) == 0) return result;
    if (at_begin == Change::add) result.insert(result.begin(), *bos);
    if (at_begin == Change::remove) result.erase(result.begin());
    if (at_end == Change::add) result.push_back(*eos);
    if (at_end == Change::remove) result.pop_back();
    return result;
  }

  void read_changes() {
    const std::vector<int32_t> bare = encode("a", 0, {}), whole = encode("a", BB_ADD_SPECIAL, {});
    const auto change = [&](std::optional<bool> wanted, std::optional<int32_t> token, int32_t there) {
      const bool has_it = token && !bare.empty() && whole.size() > bare.size() && there == *token;
      if (!wanted || !token || *wanted == has_it) return Change::none;
      return *wanted ? Change::add : Change::remove;
    };
    const Change first = change(config.add_bos_token, bos, whole.empty() ? -1 : whole.front());
    at_end = change(config.add_eos_token, eos, whole.empty() ? -1 : whole.back());
    at_begin = first;
  }
};

Tokenizer Tokenizer::from_bytes(std::string_view tokenizer_json, TokenizerConfig config, std::string_view where) {
  if (tokenizer_json.size() > kMaxFileBytes) {
    throw Error(ErrorCode::bad_file, where,
                cat("size: expected at most ", kMaxFileBytes, " bytes, got ", tokenizer_json.size()));
  }
  if (const std::string what = foreign_content(tokenizer_json); !what.empty())
    throw Error(ErrorCode::bad_file, where, what);
  auto impl = std::make_shared<Impl>();
  BbTokenizer* raw = nullptr;
  rust::Bytes info_text;
  rust::Bytes error;
  const std::string special = special_tokens_json(config);
  rust::check(bb_tokenizer_new(rust::view(tokenizer_json), rust::view(special), &raw, info_text.out(), error.out()),
              error, where);
  impl->raw.reset(raw);
  const Json info = Json::parse(info_text.text());
  const Json& prefix = info.at("add_prefix_space");
  if (config.add_prefix_space && prefix.is_boolean() && prefix != *config.add_prefix_space) {
    // Transformers 4 follows the config, transformers 5 the other file, and its class may have a mind of its own.
    throw Error(ErrorCode::bad_config, where,
                cat("'pre_tokenizer.add_prefix_space' and tokenizer_config.json's 'add_prefix_space' disagree: got ",
                    prefix.get<bool>() ? "true" : "false", " and ", *config.add_prefix_space ? "true" : "false"));
  }
  impl->vocab_size = info.at("vocab_size").get<int>();
  impl->max_token_bytes = info.at("max_token_bytes").get<int>();
  impl->byte_fallback = info.at("byte_fallback").get<bool>();
  for (const Json& token : info.at("added")) {
    AddedToken added{token[0].get<int32_t>(), token[1].get<std::string>(), token[2].get<bool>()};
    if (added.special) impl->special.insert(added.id);
    impl->added.push_back(std::move(added));
  }
  impl->token_bytes = read_token_bytes(impl->raw.get());
  const auto id_of = [&](const std::optional<std::string>& token) {
    return token ? impl->id_of(*token) : std::nullopt;
  };
  impl->bos = id_of(config.bos_token);
  impl->eos = id_of(config.eos_token);
  impl->pad = id_of(config.pad_token);
  impl->unk = id_of(config.unk_token);
  impl->config = std::move(config);
  impl->read_changes();
  return Tokenizer(std::move(impl));
}

Tokenizer Tokenizer::load(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "tokenizer.json";
  const std::optional<std::string> text = read_text_file_if_any(path, kMaxFileBytes);
  if (!text) {
    const bool sentencepiece = std::filesystem::exists(directory / "tokenizer.model"),
               tiktoken = std::filesystem::exists(directory / "tiktoken.model");
    throw Error(ErrorCode::bad_file, directory.string(),
                sentencepiece
                    ? "tokenizer.json: expected a file, got only tokenizer.model (SentencePiece); convert it with "
                      "transformers' save_pretrained of the fast tokenizer"
                : tiktoken ? "tokenizer.json: expected a file, got only tiktoken.model; convert it with transformers' "
                             "TikTokenConverter"
                           : "tokenizer.json: expected a file, got nothing");
  }
  return from_bytes(*text, TokenizerConfig::load(directory), path.string());
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  uint32_t flags = 0;
  if (options.add_special_tokens) flags |= BB_ADD_SPECIAL;
  if (options.control == ControlTokens::parse) flags |= BB_PARSE_CONTROL;
  return impl_->encode(text, flags, {});
}

std::vector<std::vector<int32_t>> Tokenizer::encode_batch(std::span<const std::string> texts,
                                                          const EncodeOptions& options) const {
  std::vector<std::vector<int32_t>> all;
  all.reserve(texts.size());
  for (const std::string& text : texts) all.push_back(encode(text, options));
  return all;
}

std::vector<int32_t> Tokenizer::encode(const RenderedPrompt& prompt) const {
  std::vector<BbSpan> guards;
  guards.reserve(prompt.guarded.size());
  for (const TextSpan& span : prompt.guarded) guards.push_back({span.begin, span.end});
  return impl_->encode(prompt.text, BB_PARSE_CONTROL, guards);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::vector<uint32_t> raw;
  raw.reserve(ids.size());
  for (const int32_t id : ids) {
    if (id < 0 || id >= impl_->vocab_size) {
      throw Error(ErrorCode::bad_request, "tokenizer",
                  cat("token id: expected 0 to ", impl_->vocab_size - 1, ", got ", id));
    }
    raw.push_back(static_cast<uint32_t>(id));
  }
  rust::Bytes text;
  rust::Bytes error;
  rust::check(bb_decode(impl_->raw.get(), raw.data(), raw.size(), skip_special ? 1 : 0, text.out(), error.out()), error,
              "tokenizer");
  return text.str();
}

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const { return impl_->id_of(token); }

std::optional<std::string> Tokenizer::token_of(int32_t id) const {
  rust::Bytes text;
  if (id < 0 || bb_token_of(impl_->raw.get(), static_cast<uint32_t>(id), text.out()) == 0) return std::nullopt;
  return text.str();
}

int Tokenizer::vocab_size() const { return impl_->vocab_size; }
int Tokenizer::max_token_bytes() const { return impl_->max_token_bytes; }
bool Tokenizer::is_special(int32_t id) const { return impl_->special.contains(id); }
bool Tokenizer::has_byte_fallback() const { return impl_->byte_fallback; }
const TokenBytes* Tokenizer::token_table() const { return impl_->token_bytes ? &*impl_->token_bytes : nullptr; }
std::optional<std::string_view> Tokenizer::token_bytes(int32_t id) const {
  if (!impl_->token_bytes || id < 0 || id >= impl_->vocab_size) return std::nullopt;
  return impl_->token_bytes->of(id);
}
const std::vector<AddedToken>& Tokenizer::added_tokens() const { return impl_->added; }
const TokenizerConfig& Tokenizer::config() const { return impl_->config; }
std::optional<int32_t> Tokenizer::bos_id() const { return impl_->bos; }
std::optional<int32_t> Tokenizer::eos_id() const { return impl_->eos; }
std::optional<int32_t> Tokenizer::pad_id() const { return impl_->pad; }
std::optional<int32_t> Tokenizer::unk_id() const { return impl_->unk; }

}  // namespace bumblebee::txt
