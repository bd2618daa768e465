// The server without its transport: decides from the head of a request whether it goes on, answers at once what needs
// no model, and hands the rest to the threads that read it and to the serving.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "bumblebee/server.h"
#include "serve/adapters.h"
#include "serve/answer.h"
#include "serve/calls.h"
#include "serve/guard.h"
#include "serve/log_queue.h"
#include "serve/metrics.h"
#include "serve/queue.h"
#include "serve/served.h"
#include "serve/workers.h"

namespace bumblebee::serve {

class Application final : public HttpHandler {
 public:
  /// `loopback`: nothing but this machine can reach it. `http`: the transport's counters, once it runs.
  Application(ServerOptions options, bool loopback, std::function<HttpStats()> http);
  ~Application() override;
  Application(const Application&) = delete;
  Application& operator=(const Application&) = delete;

  ServingReport serve(const Model& model, const Tokenizer& tokenizer, const GenerationConfig& config,
                      text::GenerationOptions options, const std::vector<NamedAdapter>& adapters);
  /// Refuses what is new from now on.
  void start_draining() { draining_ = true; }
  /// Lets answers end for so long, then ends them with an error.
  void drain(std::chrono::milliseconds grace);
  /// Keys, and what `also` reads again: both, or none where that throws.
  void reload_keys(const std::function<void()>& also) { guard_.reload(also); }
  /// Waits until the log is written, at most so long. True: it is.
  bool flush_log(std::chrono::milliseconds most) { return log_.flush(most); }

  std::optional<HttpResponse> on_head(const HttpHead& head) noexcept override;
  void on_request(uint64_t id, HttpHead head, std::string body,
                  std::shared_ptr<HttpExchange> exchange) noexcept override;
  void on_gone(uint64_t id) noexcept override { calls_.left(id); }
  HttpResponse on_broken(int status, std::string_view why) noexcept override;

 private:
  /// What there is from serve() on.
  struct Live {
    Live(Served what, int most_adapters, const text::GenerationOptions& options)
        : served(std::move(what)),
          adapters(served.name, most_adapters),
          queue{int64_t(options.limits.batch_size) + options.max_waiting, options.max_waiting_tokens} {}
    Served served;
    Adapters adapters;
    const QueueLimits queue;
  };

  std::shared_ptr<Live> live() const;
  Answer::Place place() { return {calls_, workers_, metrics_}; }
  Headers common_headers(const HttpHead& head, std::string& request_id) const;

  // On the I/O thread.
  std::optional<HttpResponse> decide(const HttpHead& head, const RouteId*& route);
  std::optional<HttpResponse> answer_at_once(const Match& match, Live* live);
  void refuse_what_cannot_be_done(const HttpHead& head, const Route& route, Live* live);
  HttpResponse health(bool ready, Live* live) const;
  std::string metrics_text(Live* live) const;
  bool queue_full(const Live& live, const text::ServingStats& stats) const;

  // On the workers' threads.
  void work(const std::shared_ptr<Call>& call, const std::string& body) noexcept;
  void chat(const std::shared_ptr<Call>& call, const std::string& body, const std::shared_ptr<Live>& live);
  void complete(const std::shared_ptr<Call>& call, const std::string& body, const std::shared_ptr<Live>& live);
  void prepare(const std::shared_ptr<Call>& call, const GenerationRequest& request, const Adapters::Choice& choice,
               text::Input& input);
  std::string tokenize(Call& call, const std::string& body, Live& live);
  std::string detokenize(Call& call, const std::string& body, Live& live);
  std::string apply_template(Call& call, const std::string& body, Live& live);
  void note_ignored(Call& call, const std::vector<std::string>& fields);

  // On the thread of administration.
  void administer(const std::shared_ptr<Call>& call, const std::string& body) noexcept;
  std::string load_adapter(const std::string& body, Live& live);
  std::string unload_adapter(const std::string& body, Live& live);
  Adapter read_adapter(const LoadAdapterRequest& request, const std::function<void(const Adapter&)>& check) const;
  void unload(Live& live, const Adapter& adapter);
  void unload_again(Live& live) noexcept;

  void keep_time();

  const ServerOptions options_;
  const bool loopback_;
  const std::function<HttpStats()> http_;
  Guard guard_;
  Metrics metrics_;
  LogQueue log_;
  Calls calls_;
  std::atomic<bool> draining_ = false, drained_ = false, adapter_busy_ = false;
  std::atomic<double> ends_per_second_ = 0;
  std::atomic<uint64_t> adapter_bytes_ = 0, adapter_host_bytes_ = 0;  // of a moment ago: asking may take its time
  mutable std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::shared_ptr<Live> live_;  // under mutex_
  struct Gone {
    Adapter adapter;
    uint64_t last;  // no later call can have chosen it
  };
  std::vector<Gone> gone_;  // unloaded ones that calls may still use; under mutex_
  // Joined from below, while all that their tasks use is there.
  Workers administration_, workers_;
  std::thread clock_;
};

}  // namespace bumblebee::serve
