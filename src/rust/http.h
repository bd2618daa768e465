// The C ABI of the transport (http/src/lib.rs): hyper, tokio and rustls behind it. What it hears and what it answers is
// the caller's; here are framing, limits and time. Built with the cargo feature `http` only.
#pragma once

#include "rust/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct BbHttp BbHttp;
typedef struct BbHttpExchange BbHttpExchange;
typedef struct BbHttpReply BbHttpReply;  // what a callback answers; lives as long as the call

typedef struct {
  BbView name;
  BbView value;
} BbHttpField;

typedef struct {
  BbView method, path, query, peer;
  const BbHttpField* fields;
  size_t field_count;
  uint64_t content_length;
  int has_content_length;
  int version;  // 10, 11, 20
  int tls;
} BbHttpHead;

// All are called on the I/O threads and may neither block nor throw. What `head` returns comes back exactly once, to
// `request` or to `forget`.
typedef struct {
  void* self;
  void* (*head)(void* self, const BbHttpHead* head, BbHttpReply* reply);         // null: refused, with `reply`
  void (*refusal)(void* self, uint16_t status, BbView why, BbHttpReply* reply);  // what a broken message is told
  void (*request)(void* self, void* head, uint64_t id, BbView body, BbHttpExchange* exchange);  // exchange: to be freed
  void (*forget)(void* self, void* head);
  void (*gone)(void* self, uint64_t id);  // before the answer was complete; at most once
} BbHttpCallbacks;

typedef struct {
  const BbView* addresses;
  size_t address_count;
  BbView certificate, key;  // paths of PEM files; empty: no TLS
  uint64_t max_connections, max_connections_per_address, max_header_bytes, max_headers, max_body_bytes,
      max_bodies_bytes;
  uint64_t header_ms, body_idle_ms, idle_ms, write_stall_ms;
  uint16_t port;
  uint16_t threads;
} BbHttpOptions;

typedef struct {
  uint64_t connections, accepted, refused_connections, requests, broken_requests, stalled;
} BbHttpStats;

// BB_BAD_FILE: certificate or key. BB_BAD_REQUEST: an address cannot be had.
BbStatus bb_http_start(const BbHttpOptions* options, BbHttpCallbacks callbacks, BbHttp** out, BbBytes* error);
// Breaks off what is left; no callback runs any more when it returns.
void bb_http_free(BbHttp* http);
uint16_t bb_http_port(const BbHttp* http);
void bb_http_stats(const BbHttp* http, BbHttpStats* out);
void bb_http_start_closing(const BbHttp* http);
int bb_http_close(const BbHttp* http, uint64_t wait_ms);  // 1: nothing was left to break off
BbStatus bb_http_reload_tls(const BbHttp* http, BbBytes* error);

void bb_http_reply(BbHttpReply* reply, uint16_t status, const BbHttpField* fields, size_t count, BbView body);

// Any thread. A freed exchange whose answer is not complete breaks its connection (HTTP/2: its stream) off.
void bb_http_respond(const BbHttpExchange* exchange, uint16_t status, const BbHttpField* fields, size_t count,
                     BbView body);
void bb_http_begin(const BbHttpExchange* exchange, uint16_t status, const BbHttpField* fields, size_t count);
void bb_http_write(const BbHttpExchange* exchange, BbView piece);
void bb_http_end(const BbHttpExchange* exchange);
size_t bb_http_unsent(const BbHttpExchange* exchange);
int bb_http_is_gone(const BbHttpExchange* exchange);
void bb_http_exchange_free(BbHttpExchange* exchange);

// Where the texts of panics go, of the whole library; before it was called they go nowhere.
void bb_log_panics(void (*log)(BbView text));

#ifdef __cplusplus
}
#endif
