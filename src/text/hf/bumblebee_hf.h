// The C ABI of the Rust library beside this file. Every function is safe for hostile bytes: a panic inside becomes a
// status, and work that recurses runs on a thread of its own with a fixed stack. Nothing here is part of the public
// promise.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct BbHfTokenizer BbHfTokenizer;
typedef struct BbHfTemplate BbHfTemplate;

typedef enum {
  BB_HF_OK = 0,
  BB_HF_BAD_FILE = 1,
  BB_HF_UNSUPPORTED = 2,
  BB_HF_BAD_REQUEST = 3,
} BbHfStatus;

typedef struct {
  const uint8_t* data;
  size_t size;
} BbHfView;

// Owned by the Rust side: give back with the matching free function. Zeroed means empty.
typedef struct {
  uint8_t* data;
  size_t size;
} BbHfBytes;
typedef struct {
  uint32_t* data;
  size_t size;
} BbHfIds;

typedef struct {
  size_t begin;
  size_t end;
} BbHfSpan;
typedef struct {
  BbHfSpan* data;
  size_t size;
} BbHfSpans;

void bb_hf_bytes_free(BbHfBytes bytes);
void bb_hf_ids_free(BbHfIds ids);
void bb_hf_spans_free(BbHfSpans spans);

// `special_json`: array of {"content", "id"?} that must be control tokens even where tokenizer.json does not say so. On
// failure `error` holds UTF-8 text. `info` receives {"vocab_size", "byte_fallback", "added": [[id, text, special],
// ...]}.
BbHfStatus bb_hf_tokenizer_new(BbHfView tokenizer_json, BbHfView special_json, BbHfTokenizer** out, BbHfBytes* info,
                               BbHfBytes* error);
void bb_hf_tokenizer_free(BbHfTokenizer* tokenizer);

enum { BB_HF_ADD_SPECIAL = 1, BB_HF_PARSE_CONTROL = 2 };
// `guards`: ascending byte ranges in which no control token may begin or end (only with BB_HF_PARSE_CONTROL).
BbHfStatus bb_hf_encode(const BbHfTokenizer* tokenizer, BbHfView text, uint32_t flags, const BbHfSpan* guards,
                        size_t guard_count, BbHfIds* out, BbHfBytes* error);
BbHfStatus bb_hf_decode(const BbHfTokenizer* tokenizer, const uint32_t* ids, size_t count, int skip_special,
                        BbHfBytes* out, BbHfBytes* error);
// Returns 1 and writes when there is one.
int bb_hf_id_of(const BbHfTokenizer* tokenizer, BbHfView token, uint32_t* out);
int bb_hf_token_of(const BbHfTokenizer* tokenizer, uint32_t id, BbHfBytes* out);

enum { BB_HF_TEXT = 0, BB_HF_FALLBACK_BYTE = 1, BB_HF_NOTHING = 2, BB_HF_SPECIAL = 4 };
// What each id below vocab_size adds to a text: its kind (above; SPECIAL beside one of the others: decoding may skip
// it) and the end of its bytes in `bytes`. At the start of a text, `strip` is dropped `strip_count` times at most.
// Returns 0 where the decoder's text is not such bytes one after the other.
int bb_hf_token_bytes(const BbHfTokenizer* tokenizer, BbHfBytes* kinds, BbHfIds* ends, BbHfBytes* bytes,
                      BbHfBytes* strip, size_t* strip_count);

typedef struct {
  uint64_t steps;
  size_t output_bytes;
  size_t recursion;
  size_t json_depth;
} BbHfTemplateLimits;

// Compiles, so that a template that does not parse is refused at load. `control_json`: array of strings that content
// must not spell.
BbHfStatus bb_hf_template_new(BbHfView source, BbHfView control_json, BbHfTemplateLimits limits, BbHfTemplate** out,
                              BbHfBytes* error);
void bb_hf_template_free(BbHfTemplate* tmpl);

typedef struct {
  BbHfView messages_json;
  BbHfView tools_json;   // empty: none
  BbHfView kwargs_json;  // empty: none
  BbHfView named_json;   // object of special tokens by name; trusted
  int add_generation_prompt;
  int trust_content;
  double now;  // seconds since the epoch, negative: the clock
} BbHfRenderRequest;
BbHfStatus bb_hf_template_render(const BbHfTemplate* tmpl, const BbHfRenderRequest* request, BbHfBytes* text,
                                 BbHfSpans* guards, BbHfBytes* error);

#ifdef __cplusplus
}
#endif
