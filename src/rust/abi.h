// What all C headers of the Rust library share: texts going in, buffers coming out, and how a call ended. Every
// function is safe for hostile bytes: a panic inside becomes a status. Nothing here is part of the public promise.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  BB_OK = 0,
  BB_BAD_FILE = 1,
  BB_UNSUPPORTED = 2,
  BB_BAD_REQUEST = 3,
  BB_BAD_CONFIG = 4,
} BbStatus;

typedef struct {
  const uint8_t* data;
  size_t size;
} BbView;

// Owned by the Rust side: give back with the matching free function. Zeroed means empty.
typedef struct {
  uint8_t* data;
  size_t size;
} BbBytes;

typedef struct {
  size_t begin;
  size_t end;
} BbSpan;

void bb_bytes_free(BbBytes bytes);

#ifdef __cplusplus
}
#endif
