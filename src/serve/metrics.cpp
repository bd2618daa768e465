// Counting and printing.
#include "serve/metrics.h"

#include <algorithm>

#include "base/error.h"

namespace bumblebee::serve {

namespace {

constexpr std::array<double, 14> kSeconds = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 600};
constexpr std::array<double, 13> kStepSeconds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                 0.2,   0.3,    0.5,   1,    2.5,   10};
constexpr std::array<double, 10> kTokens = {1, 8, 32, 128, 512, 1024, 2048, 4096, 16384, 65536};

void line(std::string& out, std::string_view name, std::string_view labels, double value) {
  out += cat("bumblebee_", name, labels.empty() ? "" : "{", labels, labels.empty() ? " " : "} ", value, "\n");
}

/// Counters are whole numbers; a double's digits would round large ones.
void line(std::string& out, std::string_view name, std::string_view labels, uint64_t value) {
  out += cat("bumblebee_", name, labels.empty() ? "" : "{", labels, labels.empty() ? " " : "} ", value, "\n");
}

void head(std::string& out, std::string_view name, std::string_view type, std::string_view help) {
  out += cat("# HELP bumblebee_", name, " ", help, "\n# TYPE bumblebee_", name, " ", type, "\n");
}

template <class T>
void one(std::string& out, std::string_view name, std::string_view type, std::string_view help, T value) {
  head(out, name, type, help);
  line(out, name, "", value);
}

void print_serving(std::string& out, const text::ServingStats& s) {
  one(out, "num_requests_running", "gauge", "Answers that are being made.", uint64_t(std::max(0, s.running)));
  one(out, "num_requests_waiting", "gauge", "Answers that wait for a place.", uint64_t(std::max(0, s.waiting)));
  one(out, "waiting_tokens", "gauge", "Tokens of the prompts that wait.",
      uint64_t(std::max<int64_t>(0, s.waiting_tokens)));
  const double pages = std::max(1, s.pages);
  one(out, "kv_cache_usage_perc", "gauge", "Share of the memory for keys and values that answers use, 0 to 1.",
      double(s.pages_used) / pages);
  head(out, "kv_pages", "gauge", "Pages of keys and values; cached ones are held by nobody but the cache.");
  line(out, "kv_pages", "state=\"used\"", uint64_t(std::max(0, s.pages_used)));
  line(out, "kv_pages", "state=\"cached\"", uint64_t(std::max(0, s.pages_cached)));
  line(out, "kv_pages", "state=\"free\"", uint64_t(std::max(0, s.pages - s.pages_used - s.pages_cached)));
  one(out, "kv_page_bytes", "gauge", "Bytes of one page.", s.page_bytes);
  if (s.states > 0) {
    head(out, "states", "gauge", "States of recurrent layers; cached ones are checkpoints of prompts.");
    line(out, "states", "state=\"used\"", uint64_t(std::max(0, s.states_used)));
    line(out, "states", "state=\"cached\"", uint64_t(std::max(0, s.states_cached)));
    line(out, "states", "state=\"free\"", uint64_t(std::max(0, s.states - s.states_used - s.states_cached)));
    one(out, "state_bytes", "gauge", "Bytes of one state.", s.state_bytes);
  }
  one(out, "prefix_cache_queries_total", "counter", "Tokens of prompts that were looked up.", s.prefix_queries);
  one(out, "prefix_cache_hits_total", "counter", "Tokens of them that were found.", s.prefix_hits);
  one(out, "prompt_tokens_total", "counter", "Tokens of prompts that were computed.", s.prompt_tokens);
  one(out, "generation_tokens_total", "counter", "Tokens that were generated.", s.generated_tokens);
  one(out, "recomputed_tokens_total", "counter", "Tokens computed again after a preemption.", s.recomputed_tokens);
  one(out, "num_preemptions_total", "counter", "Answers that gave their memory to others and went on later.",
      s.preemptions);
  one(out, "requests_failed_total", "counter", "Answers that ended with an error.", s.failed);
  one(out, "steps_total", "counter", "Steps of the serving.", s.steps);
  one(out, "rows_total", "counter", "Tokens that those steps computed.", s.rows);
  head(out, "step_seconds_total", "counter", "Seconds of the steps, by part.");
  line(out, "step_seconds_total", "part=\"plan\"", s.step_seconds.plan);
  line(out, "step_seconds_total", "part=\"compute\"", s.step_seconds.compute);
  line(out, "step_seconds_total", "part=\"sample\"", s.step_seconds.sample);
  line(out, "step_seconds_total", "part=\"text\"", s.step_seconds.text);
}

}  // namespace

void Histogram::add(double value) noexcept {
  size_t bucket = 0;
  while (bucket < bounds_.size() && value > bounds_[bucket]) ++bucket;
  counts_[bucket].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

void Histogram::print(std::string_view name, std::string_view help, std::string& out) const {
  head(out, name, "histogram", help);
  const std::string bucket = cat(name, "_bucket");
  uint64_t count = 0;
  for (size_t i = 0; i <= bounds_.size(); ++i) {
    count += counts_[i].load(std::memory_order_relaxed);
    line(out, bucket, i < bounds_.size() ? cat("le=\"", bounds_[i], "\"") : "le=\"+Inf\"", count);
  }
  line(out, cat(name, "_sum"), "", sum_.load(std::memory_order_relaxed));
  line(out, cat(name, "_count"), "", count);
}

Metrics::Metrics()
    : first_token_(kSeconds),
      inter_token_(kStepSeconds),
      whole_(kSeconds),
      queued_(kSeconds),
      prefill_(kSeconds),
      decode_(kSeconds),
      prompt_(kTokens),
      output_(kTokens),
      swap_(kSeconds) {}

void Metrics::answered(const RouteId* id, int status, double seconds) noexcept {
  const size_t row = id ? size_t(*id) : kRouteCount;
  const auto found = std::find(kStatuses.begin(), kStatuses.end(), status);
  answers_[row][size_t(found - kStatuses.begin())].fetch_add(1, std::memory_order_relaxed);
  const bool generation = id && (*id == RouteId::chat_completions || *id == RouteId::completions);
  if (generation && status == 200) whole_.add(seconds);
}

void Metrics::generated(const text::Result& result) noexcept {
  finished_[size_t(result.finish_reason)].fetch_add(1, std::memory_order_relaxed);
  queued_.add(result.timings.queue_s);
  if (result.token_summary.output > 0) first_token_.add(result.timings.ttft_s);
  prefill_.add(result.timings.prefill_s);
  decode_.add(result.timings.decode_s);
  prompt_.add(result.token_summary.input);
  output_.add(result.token_summary.output);
}

void Metrics::adapter_load(bool good, double seconds) noexcept {
  ++(good ? loads_good_ : loads_bad_);
  if (good) swap_.add(seconds);
}

std::string Metrics::print(const Now& now) const {
  std::string out;
  if (now.serving) print_serving(out, *now.serving);
  // Not the serving's count: a full queue is noticed on the head already, before the serving hears of a request.
  one(out, "requests_refused_total", "counter", "Requests that the queue had no room for.", refused_.load());
  one(out, "requests_in_flight", "gauge", "Requests that are being answered.", now.requests);
  head(out, "request_success_total", "counter", "Answers by what ended them.");
  constexpr std::array<const char*, 3> reasons = {"finished_reason=\"stop\"", "finished_reason=\"length\"",
                                                  "finished_reason=\"abort\""};
  for (size_t i = 0; i < reasons.size(); ++i)
    line(out, "request_success_total", reasons[i], finished_[i].load(std::memory_order_relaxed));
  first_token_.print("time_to_first_token_seconds", "From the request to its first token.", out);
  inter_token_.print("inter_token_latency_seconds", "Between two pieces of a stream.", out);
  whole_.print("e2e_request_latency_seconds", "From the head of a request to the end of its answer.", out);
  queued_.print("request_queue_time_seconds", "From the request to its first step.", out);
  prefill_.print("request_prefill_time_seconds", "Computing the prompt.", out);
  decode_.print("request_decode_time_seconds", "From the first token to the last.", out);
  prompt_.print("request_prompt_tokens", "Tokens of a prompt.", out);
  output_.print("request_generation_tokens", "Tokens of an answer.", out);

  head(out, "http_requests_total", "counter", "Answers by route and status; 499: the client left before.");
  for (size_t row = 0; row <= kRouteCount; ++row) {
    const std::string_view path = row < kRouteCount ? to_string(RouteId(row)) : "other";
    for (size_t i = 0; i <= kStatuses.size(); ++i) {
      const uint64_t count = answers_[row][i].load(std::memory_order_relaxed);
      if (count == 0) continue;
      const std::string code = i < kStatuses.size() ? cat(kStatuses[i]) : "other";
      line(out, "http_requests_total", cat("route=\"", path, "\",code=\"", code, "\""), count);
    }
  }
  one(out, "http_connections", "gauge", "Connections that are open.", now.http.connections);
  one(out, "http_accepted_total", "counter", "Connections that were accepted.", now.http.accepted);
  one(out, "http_refused_connections_total", "counter", "Connections beyond the limits.", now.http.refused_connections);
  one(out, "http_broken_requests_total", "counter", "Requests that are no HTTP, or broke off.",
      now.http.broken_requests);
  one(out, "http_stalled_total", "counter", "Connections that took nothing for too long.", now.http.stalled);
  one(out, "slow_readers_total", "counter", "Streams whose reader did not keep up.", slow_readers_.load());
  one(out, "clients_left_total", "counter", "Requests whose client left before the answer was complete.", left_.load());
  one(out, "ignored_fields_total", "counter", "Fields of requests that this server does not know.",
      ignored_fields_.load());
  one(out, "log_lines_dropped_total", "counter", "Lines of the log that could not be written, or not in time.",
      now.log_lines_dropped);

  one(out, "lora_adapters", "gauge", "Adapters that requests can name.", uint64_t(std::max(0, now.adapter_count)));
  one(out, "lora_resident_bytes", "gauge", "Bytes of packed adapters on the device.", now.adapters.bytes);
  one(out, "lora_host_bytes", "gauge", "Bytes of adapters on the host.", now.adapters.host_bytes);
  head(out, "lora_loads_total", "counter", "Loads of adapters by how they ended.");
  line(out, "lora_loads_total", "result=\"ok\"", loads_good_.load());
  line(out, "lora_loads_total", "result=\"failed\"", loads_bad_.load());
  swap_.print("lora_swap_seconds", "Reading, checking and packing an adapter.", out);
  return out;
}

}  // namespace bumblebee::serve
