// Vocabulary, merges and added tokens are checked against each other, so that the written file loads and means the
// same.
#include "io/gguf_tokenizer.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <deque>
#include <string_view>
#include <tuple>
#include <unordered_map>

#include "base/error.h"
#include "io/quote.h"

namespace bumblebee {
namespace {

enum TokenType : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

/// The names by which chat formats end a turn; llama.cpp stops at them too, whichever id the file calls its end.
constexpr std::string_view kEndings[] = {"<|im_end|>",    "<|eot_id|>",      "<|eom_id|>",
                                         "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>"};

const char* const kQwen2Split =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char* const kLlama3Split =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

OrderedJson byte_level(bool add_prefix_space, bool trim_offsets, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", trim_offsets},
          {"use_regex", use_regex}};
}

OrderedJson sequence(const char* list, OrderedJson items) { return {{"type", "Sequence"}, {list, std::move(items)}}; }

OrderedJson split(const char* pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

/// What a pre-tokenizer's name stands for.
struct Family {
  const char* tokenizer_class;
  OrderedJson normalizer, pre_tokenizer, decoder;
  bool ignore_merges = false, adds_bos = false;
  bool pieces = false;      // of SentencePiece, with bytes for what they do not cover
  bool adds_space = false;  // before a text
};

constexpr const char* kSpace = "\xE2\x96\x81";  // what stands for a space in a piece

OrderedJson replace(const char* from, const char* to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

/// Gemma's own: spaces become pieces' marks, and the mark before a word stays with what is before it.
Family gemma() {
  return {
      "GemmaTokenizer",
      replace(" ", kSpace),
      {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithPrevious"}, {"invert", false}},
      sequence("decoders", OrderedJson::array({replace(kSpace, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}})),
      false,
      true,
      true};
}

/// Llama 2, Mistral and Phi-3: a text begins with a space, also after a control token, and words are not split before.
Family sentence_piece() {
  return {
      "LlamaTokenizer",
      sequence("normalizers", OrderedJson::array({{{"type", "Prepend"}, {"prepend", kSpace}}, replace(" ", kSpace)})),
      nullptr,
      sequence("decoders", OrderedJson::array({replace(kSpace, " "),
                                               {{"type", "ByteFallback"}},
                                               {{"type", "Fuse"}},
                                               {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}})),
      false,
      true,
      true,
      true};
}

std::optional<Family> family(const std::string& pre) {
  const OrderedJson nothing = nullptr;
  if (pre == "gpt-2" || pre == "gpt2")
    return Family{"GPT2Tokenizer", nothing, byte_level(false, true, true), byte_level(true, true, true)};
  if (pre == "smollm") {
    const OrderedJson digits = {{"type", "Digits"}, {"individual_digits", true}};
    return Family{"GPT2Tokenizer", nothing,
                  sequence("pretokenizers", OrderedJson::array({digits, byte_level(false, true, true)})),
                  byte_level(true, true, true)};
  }
  if (pre == "qwen2") {
    return Family{"Qwen2Tokenizer",
                  {{"type", "NFC"}},
                  sequence("pretokenizers", OrderedJson::array({split(kQwen2Split), byte_level(false, false, false)})),
                  byte_level(false, false, false)};
  }
  if (pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3") {
    return Family{"PreTrainedTokenizerFast",
                  nothing,
                  sequence("pretokenizers", OrderedJson::array({split(kLlama3Split), byte_level(false, true, false)})),
                  byte_level(true, true, true),
                  true,
                  true};
  }
  return std::nullopt;
}

class TokenizerReader {
 public:
  TokenizerReader(const GgufFile& file, int64_t vocab) : file_(file), vocab_(vocab) {}

  GgufTokenizer read() {
    read_tokens();
    read_family();
    read_special_ids();
    GgufTokenizer result;
    result.bos = bos_;
    result.pad = pad_;
    result.eos = eos_;
    result.tokenizer = tokenizer_json();
    result.tokenizer_config = config_json();
    return result;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const { throw Error(ErrorCode::unsupported, file_.where(), what); }
  [[noreturn]] void broken(const std::string& what) const { throw Error(ErrorCode::bad_file, file_.where(), what); }

  void read_tokens() {
    const std::string model = file_.string("tokenizer.ggml.model").value_or("");
    const bool pieces = model == "llama";
    if (model != "gpt2" && !pieces) {
      refuse(cat("'tokenizer.ggml.model': expected 'gpt2' (byte-level BPE) or 'llama' (SentencePiece), got ",
                 in_quotes(model)));
    }
    const auto tokens = file_.strings("tokenizer.ggml.tokens");
    const auto types = file_.integers("tokenizer.ggml.token_type");
    if (!tokens || tokens->empty()) broken("metadata 'tokenizer.ggml.tokens' is missing: expected an array of strings");
    if (int64_t(tokens->size()) > vocab_)
      broken(
          cat("'tokenizer.ggml.tokens': expected at most ", vocab_, " (rows of the embedding), got ", tokens->size()));
    if (!types || types->size() != tokens->size()) {
      broken(cat("'tokenizer.ggml.token_type': expected ", tokens->size(), " integers, got ",
                 types ? cat(types->size()) : "none"));
    }
    tokens_ = *tokens;
    types_ = *types;
    if (pieces) family_ = file_.string("general.architecture").value_or("") == "gemma3" ? gemma() : sentence_piece();
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (types_[i] < kNormal || types_[i] > kByte)
        broken(cat("'tokenizer.ggml.token_type': token ", i, ": expected 1 to 6, got ", types_[i]));
      if (pieces && types_[i] == kUserDefined) tokens_[i] = with_marks(tokens_[i]);
      if (!pieces && (types_[i] == kByte || types_[i] == kUnknown))
        refuse(cat("token ", i, " of type ", types_[i], " is not supported in byte-level BPE"));
      if (types_[i] == kUnused) continue;
      if (tokens_[i].empty() || !is_utf8(tokens_[i]))
        broken(cat("'tokenizer.ggml.tokens': token ", i, ": expected UTF-8 text, got ", in_quotes(tokens_[i])));
      if (!ids_.emplace(tokens_[i], int64_t(i)).second)
        broken(cat("'tokenizer.ggml.tokens': token ", i, " ", in_quotes(tokens_[i]), " given twice"));
    }
  }

  /// llama.cpp writes runs of spaces as such.
  std::string_view with_marks(std::string_view text) {
    if (text.find_first_not_of(' ') != std::string_view::npos) return text;
    std::string& marks = marks_.emplace_back();
    for (size_t i = 0; i < text.size(); ++i) marks += kSpace;
    return marks;
  }

  void read_family() {
    const std::string pre = file_.string("tokenizer.ggml.pre").value_or("default");
    if (!family_.pieces) {
      const auto known = family(pre);
      if (!known) refuse(cat("'tokenizer.ggml.pre': expected smollm, gpt-2, qwen2 or llama-bpe, got ", in_quotes(pre)));
      family_ = *known;
    }
    if (const bool adds = file_.boolean("tokenizer.ggml.add_space_prefix").value_or(family_.pieces);
        adds != family_.adds_space)
      refuse(cat("'tokenizer.ggml.add_space_prefix': expected ", family_.adds_space ? "true" : "false", ", got ",
                 adds ? "true" : "false"));
    if (file_.boolean("tokenizer.ggml.add_eos_token").value_or(false))
      refuse("'tokenizer.ggml.add_eos_token': expected false, got true");
    if (file_.boolean("tokenizer.ggml.add_sep_token").value_or(false))
      refuse("'tokenizer.ggml.add_sep_token': expected false, got true");
    if (file_.boolean("tokenizer.ggml.remove_extra_whitespaces").value_or(false))
      refuse("'tokenizer.ggml.remove_extra_whitespaces': expected false, got true");
    if (file_.has("tokenizer.ggml.precompiled_charsmap"))
      refuse("'tokenizer.ggml.precompiled_charsmap' is not supported");
    add_bos_ = file_.boolean("tokenizer.ggml.add_bos_token").value_or(family_.adds_bos);
  }

  std::optional<int64_t> special_id(const char* name) const {
    return file_.integer(cat("tokenizer.ggml.", name), 0, int64_t(tokens_.size()) - 1);
  }

  void read_special_ids() {
    bos_ = special_id("bos_token_id");
    pad_ = special_id("padding_token_id");
    unknown_ = special_id("unknown_token_id");
    for (const char* name : {"eos_token_id", "eot_token_id", "eom_token_id"}) add_ending(special_id(name));
    for (const std::string_view text : kEndings) {
      const auto it = ids_.find(text);
      if (it != ids_.end() && types_[size_t(it->second)] == kControl) add_ending(it->second);
    }
    if (add_bos_ && !bos_)
      broken("'tokenizer.ggml.add_bos_token' is true: expected 'tokenizer.ggml.bos_token_id', got none");
  }

  void add_ending(std::optional<int64_t> id) {
    if (id && std::find(eos_.begin(), eos_.end(), *id) == eos_.end()) eos_.push_back(*id);
  }

  bool is_added(size_t id) const {
    return types_[id] == kControl || types_[id] == kUserDefined || types_[id] == kUnknown;
  }

  /// Where the added tokens begin when they follow the vocabulary without a gap, as in the files of Qwen and Llama 3;
  /// they then stay out of the model's vocabulary, and the reader numbers them on from its size. Otherwise they are
  /// part of it (SmolLM2).
  size_t vocabulary_end() const {
    if (family_.pieces) return tokens_.size();
    size_t end = 0;
    while (end < tokens_.size() && types_[end] == kNormal) ++end;
    size_t last = end;
    while (last < tokens_.size() && is_added(last)) ++last;
    for (size_t i = last; i < tokens_.size(); ++i) {
      if (types_[i] != kUnused) return tokens_.size();
    }
    return end;
  }

  /// A piece is joined from any two others that make it; the higher its score, the earlier. Of equal scores the longer
  /// parts come first, and of those the ones with lower ids: the order in which Hugging Face's converter writes them.
  /// Pieces that users defined come before all others.
  OrderedJson merges_of_pieces() const {
    const auto scores = file_.numbers("tokenizer.ggml.scores");
    if (!scores || scores->size() != tokens_.size()) {
      broken(cat("'tokenizer.ggml.scores': expected ", tokens_.size(), " numbers, got ",
                 scores ? cat(scores->size()) : "none"));
    }
    struct Merge {
      float score;
      size_t left, right, from;  // characters, and where in the list of pieces
      std::string_view first, second;
    };
    std::vector<Merge> all;
    std::vector<Merge> of_piece;
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (types_[i] != kNormal && types_[i] != kUserDefined) continue;
      const std::string_view piece = tokens_[i];
      const size_t length = characters(piece);
      of_piece.clear();
      size_t left = 0;
      for (size_t at = 1; at < piece.size(); ++at) {
        if ((uint8_t(piece[at]) & 0xC0) == 0x80) continue;  // within a character
        ++left;
        const auto first = ids_.find(piece.substr(0, at)), second = ids_.find(piece.substr(at));
        if (first == ids_.end() || second == ids_.end()) continue;
        of_piece.push_back(
            {types_[i] == kUserDefined ? 0.0f : (*scores)[i], left, length - left, i, first->first, second->first});
      }
      std::sort(of_piece.begin(), of_piece.end(), [&](const Merge& a, const Merge& b) {
        return std::pair(ids_.at(a.first), ids_.at(a.second)) < std::pair(ids_.at(b.first), ids_.at(b.second));
      });
      all.insert(all.end(), of_piece.begin(), of_piece.end());
    }
    std::stable_sort(all.begin(), all.end(), [](const Merge& a, const Merge& b) {
      return std::tuple(a.score, a.left, a.right) > std::tuple(b.score, b.left, b.right);
    });
    OrderedJson result = OrderedJson::array();
    for (const Merge& merge : all) result.push_back(OrderedJson::array({merge.first, merge.second}));
    return result;
  }

  static size_t characters(std::string_view text) {
    return size_t(std::count_if(text.begin(), text.end(), [](char c) { return (uint8_t(c) & 0xC0) != 0x80; }));
  }

  OrderedJson merges() const {
    if (family_.pieces) return merges_of_pieces();
    const auto lines = file_.strings("tokenizer.ggml.merges");
    if (!lines) broken("metadata 'tokenizer.ggml.merges' is missing: expected an array of strings");
    OrderedJson result = OrderedJson::array();
    for (size_t i = 0; i < lines->size(); ++i) {
      const std::string_view line = (*lines)[i];
      const size_t space = line.find(' ');
      if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos || !is_utf8(line)) {
        broken(cat("'tokenizer.ggml.merges': merge ", i, ": expected two tokens and one space, got ", in_quotes(line)));
      }
      const std::string_view left = line.substr(0, space), right = line.substr(space + 1);
      for (const std::string& part : {std::string(left), std::string(right), std::string(left) + std::string(right)}) {
        if (ids_.find(part) == ids_.end())
          broken(
              cat("'tokenizer.ggml.merges': merge ", i, ": expected tokens of the vocabulary, got ", in_quotes(part)));
      }
      result.push_back(line);
    }
    return result;
  }

  OrderedJson post_processor() const {
    if (!add_bos_) return family_.ignore_merges ? byte_level(true, false, true) : OrderedJson(nullptr);
    const std::string name(tokens_[size_t(*bos_)]);
    const OrderedJson special = {{"SpecialToken", {{"id", name}, {"type_id", 0}}}},
                      first = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
    const OrderedJson second_special = {{"SpecialToken", {{"id", name}, {"type_id", 1}}}},
                      second = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
    OrderedJson tokens = OrderedJson::object();
    tokens[name] = {{"id", name}, {"ids", OrderedJson::array({*bos_})}, {"tokens", OrderedJson::array({name})}};
    const OrderedJson bos_template = {{"type", "TemplateProcessing"},
                                      {"single", OrderedJson::array({special, first})},
                                      {"pair", OrderedJson::array({special, first, second_special, second})},
                                      {"special_tokens", tokens}};
    if (family_.pieces) return bos_template;
    return sequence("processors", OrderedJson::array({byte_level(true, false, true), bos_template}));
  }

  OrderedJson tokenizer_json() const {
    OrderedJson added = OrderedJson::array(), vocabulary = OrderedJson::object();
    const size_t end = vocabulary_end();
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (types_[i] == kUnused) continue;
      const std::string text(tokens_[i]);
      if (i < end) vocabulary.get_ref<OrderedJson::object_t&>().emplace_back(text, i);  // unique already: no search
      if (!is_added(i)) continue;
      added.push_back({{"id", i},
                       {"content", text},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", types_[i] != kUserDefined}});
    }
    OrderedJson model = {
        {"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", family_.pieces && unknown_ ? OrderedJson(tokens_[size_t(*unknown_)]) : OrderedJson()},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", family_.pieces},
        {"byte_fallback", family_.pieces},
        {"ignore_merges", family_.ignore_merges}};
    model["vocab"] = std::move(vocabulary);
    model["merges"] = merges();
    OrderedJson result = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
    result["added_tokens"] = std::move(added);
    result["normalizer"] = family_.normalizer;
    result["pre_tokenizer"] = family_.pre_tokenizer;
    result["post_processor"] = post_processor();
    result["decoder"] = family_.decoder;
    result["model"] = std::move(model);
    return result;
  }

  OrderedJson chat_template() const {
    const auto main = file_.string("tokenizer.chat_template");
    const auto names = file_.strings("tokenizer.chat_templates");
    if (!names || names->empty()) return main ? OrderedJson(*main) : OrderedJson(nullptr);
    OrderedJson list = OrderedJson::array();
    if (main) list.push_back({{"name", "default"}, {"template", *main}});
    for (const std::string_view name : *names) {
      if (!is_utf8(name)) broken("'tokenizer.chat_templates': expected UTF-8, got other bytes");
      const auto text = file_.string(cat("tokenizer.chat_template.", name));
      if (!text)
        broken(cat("'tokenizer.chat_templates' names ", in_quotes(name),
                   ": expected metadata of that template, got none"));
      list.push_back({{"name", name}, {"template", *text}});
    }
    return list;
  }

  OrderedJson config_json() const {
    OrderedJson config = {{"tokenizer_class", family_.tokenizer_class},
                          {"add_bos_token", add_bos_},
                          {"clean_up_tokenization_spaces", false}};
    if (!family_.adds_space) config["add_prefix_space"] = false;
    const auto name = [&](const char* key, std::optional<int64_t> id) {
      if (id) config[key] = std::string(tokens_[size_t(*id)]);
    };
    name("bos_token", bos_);
    name("eos_token", eos_.empty() ? std::nullopt : std::optional<int64_t>(eos_.front()));
    name("pad_token", pad_);
    name("unk_token", unknown_);
    if (OrderedJson text = chat_template(); !text.is_null()) config["chat_template"] = std::move(text);
    return config;
  }

  const GgufFile& file_;
  int64_t vocab_;
  std::deque<std::string> marks_;  // texts that are not the file's
  std::vector<std::string_view> tokens_;
  std::vector<int64_t> types_;
  std::unordered_map<std::string_view, int64_t> ids_;
  Family family_{};
  bool add_bos_ = false;
  std::optional<int64_t> bos_, pad_, unknown_;
  std::vector<int64_t> eos_;
};

}  // namespace

GgufTokenizer read_gguf_tokenizer(const GgufFile& file, int64_t vocab) { return TokenizerReader(file, vocab).read(); }

}  // namespace bumblebee
