// The C ABI of src/pattern.rs: patterns of PEFT's configs, which are regular expressions of Python.
#pragma once

#include "rust/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct BbPattern BbPattern;

// `cost`: steps per byte of a name, about. BB_BAD_CONFIG: Python refuses it too, or it is too large. BB_UNSUPPORTED:
// Python takes it.
BbStatus bb_pattern_new(BbView text, BbPattern** out, size_t* cost, BbBytes* error);
void bb_pattern_free(BbPattern* pattern);
// re.fullmatch. BB_BAD_CONFIG: `name` is no UTF-8 or has a line break. BB_UNSUPPORTED: it takes too many steps back.
BbStatus bb_pattern_matches(const BbPattern* pattern, BbView name, int* out, BbBytes* error);

#ifdef __cplusplus
}
#endif
