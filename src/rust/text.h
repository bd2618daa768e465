// The C ABI over Hugging Face tokenizers and chat templates (src/lib.rs). Work that recurses runs on a thread of its
// own with a fixed stack.
#pragma once

#include "rust/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct BbTokenizer BbTokenizer;
typedef struct BbTemplate BbTemplate;

typedef struct {
  uint32_t* data;
  size_t size;
} BbIds;

typedef struct {
  BbSpan* data;
  size_t size;
} BbSpans;

void bb_ids_free(BbIds ids);
void bb_spans_free(BbSpans spans);

// `special_json`: array of {"content", "id"?} that must be control tokens even where tokenizer.json does not say so. On
// failure `error` holds UTF-8 text. `info` receives {"vocab_size", "byte_fallback", "added": [[id, text, special],
// ...], "add_prefix_space", "max_token_bytes"}; the last is 0 where a token may stand for any amount of text.
BbStatus bb_tokenizer_new(BbView tokenizer_json, BbView special_json, BbTokenizer** out, BbBytes* info, BbBytes* error);
void bb_tokenizer_free(BbTokenizer* tokenizer);

enum { BB_ADD_SPECIAL = 1, BB_PARSE_CONTROL = 2 };
// `guards`: ascending byte ranges in which no control token may begin or end (only with BB_PARSE_CONTROL).
BbStatus bb_encode(const BbTokenizer* tokenizer, BbView text, uint32_t flags, const BbSpan* guards, size_t guard_count,
                   BbIds* out, BbBytes* error);
BbStatus bb_decode(const BbTokenizer* tokenizer, const uint32_t* ids, size_t count, int skip_special, BbBytes* out,
                   BbBytes* error);
// Returns 1 and writes when there is one.
int bb_id_of(const BbTokenizer* tokenizer, BbView token, uint32_t* out);
int bb_token_of(const BbTokenizer* tokenizer, uint32_t id, BbBytes* out);

enum { BB_TEXT = 0, BB_FALLBACK_BYTE = 1, BB_NOTHING = 2, BB_SPECIAL = 4 };
// What each id below vocab_size adds to a text: its kind (above; SPECIAL beside one of the others: decoding may skip
// it) and the end of its bytes in `bytes`. At the start of a text, `strip` is dropped `strip_count` times at most.
// Returns 0 where the decoder's text is not such bytes one after the other.
int bb_token_bytes(const BbTokenizer* tokenizer, BbBytes* kinds, BbIds* ends, BbBytes* bytes, BbBytes* strip,
                   size_t* strip_count);

typedef struct {
  uint64_t steps;
  size_t output_bytes;
  size_t recursion;
  size_t json_depth;
} BbTemplateLimits;

// Compiles, so that a template that does not parse is refused at load. `control_json`: array of strings that content
// must not spell.
BbStatus bb_template_new(BbView source, BbView control_json, BbTemplateLimits limits, BbTemplate** out, BbBytes* error);
void bb_template_free(BbTemplate* tmpl);

typedef struct {
  BbView messages_json;
  BbView tools_json;   // empty: none
  BbView kwargs_json;  // empty: none
  BbView named_json;   // object of special tokens by name; trusted
  int add_generation_prompt;
  int trust_content;
  double now;  // seconds since the epoch, negative: the clock
} BbRenderRequest;
BbStatus bb_template_render(const BbTemplate* tmpl, const BbRenderRequest* request, BbBytes* text, BbSpans* guards,
                            BbBytes* error);

#ifdef __cplusplus
}
#endif
