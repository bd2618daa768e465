// `serve`: a model and its adapters behind OpenAI's API, until a signal ends it.
#include <fcntl.h>
#include <fmt/core.h>
#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "bumblebee/server.h"
#include "commands/commands.h"
#include "commands/generation.h"
#include "options/adapter_source.h"
#include "options/hub_source.h"
#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct ServeFlags {
  CommonFlags common;
  ModelFlags model;
  int ctx_size = 0;
  std::string kv_memory;
  std::vector<std::string> adapters;
  std::string host = "127.0.0.1";
  int port = 8080;
  std::string api_key_file, admin_key_file, tls_cert, tls_key;
  bool insecure = false;
  std::vector<std::string> allowed_hosts, allowed_origins;
  std::string alias, tool_parser = "auto", reasoning_parser = "auto", reasoning_field = "reasoning_content";
  std::string adapter_root;
  bool allow_hub = false, strict = false, log_prompts = false, no_prefix_cache = false;
  int max_adapters = 64, parallel = 16, max_waiting = 1024, max_active = 0, step_target_ms = 200,
      max_connections = 2048;
  double queue_timeout = 0, grace = 30, keep_alive = 10, write_stall = 30;
  std::string log_jsonl;
};

/// The signals that mean something here come to one thread, which waits for them; every other thread is made after this
/// and has them blocked.
class Signals {
 public:
  Signals() {
    std::signal(SIGPIPE, SIG_IGN);  // a client that leaves while it is written to is no reason to die
    sigemptyset(&waited_);
    for (const int one : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) sigaddset(&waited_, one);
    pthread_sigmask(SIG_BLOCK, &waited_, nullptr);
  }
  /// Calls `work` on this thread while Ctrl-C and SIGTERM mean what they mean to every verb.
  template <class Work>
  void as_usual(Work work) const {
    sigset_t usual;
    sigemptyset(&usual);
    for (const int one : {SIGTERM, SIGINT}) sigaddset(&usual, one);
    pthread_sigmask(SIG_UNBLOCK, &usual, nullptr);
    work();
    pthread_sigmask(SIG_BLOCK, &usual, nullptr);
  }
  /// The next signal, or nothing for as long.
  std::optional<int> wait(std::chrono::seconds patience) const {
    const timespec most{.tv_sec = patience.count(), .tv_nsec = 0};
    const int signal = sigtimedwait(&waited_, nullptr, &most);
    return signal > 0 ? std::optional(signal) : std::nullopt;
  }

 private:
  sigset_t waited_{};
};

/// glibc gives threads that allocate at once heaps of their own, up to eight a processor, and what one frees is of no
/// use to the next: adapters that come and go would leave a little in each. Few heaps hold the text that a server
/// allocates.
void share_heaps() {
#ifdef M_ARENA_MAX
  if (std::getenv("MALLOC_ARENA_MAX") == nullptr) ::mallopt(M_ARENA_MAX, 4);
#endif
}

/// A server's heaps would keep what its busiest minute took: once nobody asks, they go back to the system.
class SpareHeap {
 public:
  static constexpr std::chrono::seconds kBetweenLooks{5};

  /// Called every kBetweenLooks or so. A server with less than a hundredth of a processor to do is idle.
  void look() {
#ifdef __GLIBC__
    const bool idle = processor_time() - at_last_look_ <= std::chrono::milliseconds(50);
    if (idle && worked_) ::malloc_trim(0);
    worked_ = !idle;
    at_last_look_ = processor_time();
#endif
  }

 private:
  static std::chrono::microseconds processor_time() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    const auto time = [](const timeval& t) {
      return std::chrono::seconds(t.tv_sec) + std::chrono::microseconds(t.tv_usec);
    };
    return time(usage.ru_utime) + time(usage.ru_stime);
  }

  bool worked_ = false;
  std::chrono::microseconds at_last_look_{0};
};

/// Each connection is a descriptor, and the usual 1,024 are fewer than the connections that are allowed.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

/// Lines of JSON, in a file that is appended to, or on standard output.
class LogFile {
 public:
  explicit LogFile(std::string path) : path_(std::move(path)) {
    if (path_.empty()) return;
    file_ =
        path_ == "-" ? ::dup(STDOUT_FILENO) : ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file_ < 0)
      throw Error(ErrorCode::bad_file, path_, "expected a file for the log, got one that cannot be written");
  }
  LogFile(const LogFile&) = delete;
  LogFile& operator=(const LogFile&) = delete;
  ~LogFile() {
    if (file_ >= 0) ::close(file_);
  }
  /// Throws what a full disk says, so that the line is counted as lost.
  std::function<void(std::string_view)> sink() {
    if (file_ < 0) return {};
    return [this](std::string_view line) { write(line); };
  }

 private:
  void write(std::string_view line) {
    // After a line that was cut off the next one begins anew.
    const std::string whole = (torn_ ? "\n" : "") + std::string(line) + "\n";
    for (std::string_view rest = whole; !rest.empty();) {
      const ssize_t written = ::write(file_, rest.data(), rest.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) {
        const std::string why = std::strerror(errno);
        if (rest.size() < whole.size()) torn_ = true;
        if (!std::exchange(failing_, true))
          note("[" + path_ + "] cannot write: " + why + "; lines of the log are lost, and counted");
        throw Error(ErrorCode::bad_file, path_, "cannot write: " + why);
      }
      rest.remove_prefix(size_t(written));
    }
    torn_ = failing_ = false;
  }

  const std::string path_;
  int file_ = -1;
  bool torn_ = false, failing_ = false;  // of the thread that writes
};

std::chrono::milliseconds milliseconds(double seconds) { return std::chrono::milliseconds(int64_t(seconds * 1000)); }

ServerOptions server_options(const ServeFlags& flags) {
  ServerOptions options;
  options.host = flags.host;
  options.port = flags.port;
  options.api_key_file = flags.api_key_file;
  options.admin_key_file = flags.admin_key_file;
  options.insecure = flags.insecure;
  options.tls_certificate = flags.tls_cert;
  options.tls_key = flags.tls_key;
  options.allowed_hosts = flags.allowed_hosts;
  options.allowed_origins = flags.allowed_origins;
  options.model_name = flags.alias;
  if (options.model_name.empty()) {
    // A directory is known by its name, a repository of the Hub by its own.
    std::error_code unknown;
    const std::filesystem::path place = std::filesystem::canonical(flags.model.model, unknown);
    options.model_name = unknown ? flags.model.model.substr(0, flags.model.model.find('@')) : place.filename().string();
  }
  options.tool_parser = flags.tool_parser;
  options.reasoning_parser = flags.reasoning_parser;
  options.reasoning_field = flags.reasoning_field;
  if (!flags.adapter_root.empty()) options.adapter_root = flags.adapter_root;
  options.allow_hub = flags.allow_hub;
  options.max_adapters = flags.max_adapters;
  options.strict = flags.strict;
  options.max_connections = flags.max_connections;
  options.write_stall = milliseconds(flags.write_stall);
  options.keep_alive = milliseconds(flags.keep_alive);
  options.queue_timeout = milliseconds(flags.queue_timeout);
  options.log_prompts = flags.log_prompts;
  return options;
}

std::vector<NamedAdapter> named_adapters(const ServeFlags& flags) {
  std::vector<NamedAdapter> adapters;
  for (const std::string& text : flags.adapters) {
    const size_t equals = text.find('=');
    const bool named = equals != std::string::npos && text.find('/') > equals && !text.substr(0, equals).empty();
    if (!named) throw UsageError("'" + text + "': expected NAME=ADAPTER, where requests name it as their model");
    const std::string name = text.substr(0, equals);
    const AdapterSource source = AdapterSource::parse(text.substr(equals + 1));
    if (source.weight != 1)
      throw UsageError(
          "'" + text +
          "': requests say how much of an adapter they want; expected NAME=ADAPTER or NAME=ADAPTER:scale=X");
    adapters.push_back(
        {name, load_adapter(hub_source(source.source, flags.common), {.scale = source.scale, .name = name})});
  }
  return adapters;
}

std::string address_of(const ServeFlags& flags, int port) {
  const std::string host = flags.host.find(':') == std::string::npos ? flags.host : "[" + flags.host + "]";
  return fmt::format("{}://{}:{}", flags.tls_cert.empty() ? "http" : "https", host, port);
}

void say_ready(const ServeFlags& flags, const ServingReport& report, int port) {
  const std::string address = address_of(flags, port);
  if (flags.common.json) {
    print_json({{"event", "ready"},
                {"address", address},
                {"model", report.model},
                {"tool_parser", report.tool_parser},
                {"reasoning_parser", report.reasoning_parser},
                {"kv_bytes", report.limits.kv_bytes},
                {"sequence_length", report.limits.sequence_length}});
    return;
  }
  const auto parser = [](const std::string& name, const std::string& why) {
    return why.empty() ? name : name + " (" + why + ")";
  };
  const std::string key = flags.api_key_file.empty() ? "" : "-H \"authorization: Bearer $KEY\" ";
  std::fprintf(
      stderr,
      "%s at %s; tools: %s; thoughts: %s; %s for keys and values, %d tokens a request. Try: "
      "curl %s/v1/chat/completions %s-H 'content-type: application/json' -d "
      "'{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'\n",
      one_line(report.model).c_str(), address.c_str(), parser(report.tool_parser, report.tool_parser_why).c_str(),
      parser(report.reasoning_parser, report.reasoning_parser_why).c_str(),
      human_bytes(double(report.limits.kv_bytes)).c_str(), report.limits.sequence_length, address.c_str(), key.c_str());
}

/// What the model's thread comes to, and that of the end; SIGUSR1 says that one of them did.
struct Progress {
  std::atomic<bool> loaded = false, drained = false;
  std::exception_ptr failure;  // of loading; set before `loaded`
};

void load_and_serve(const ServeFlags& flags, Server& server) {
  const Repository repository = source(flags.model.model, flags.common);
  const Tokenizer tokenizer = load_tokenizer(repository);
  const GenerationConfig config = load_generation_config(repository, tokenizer);
  const std::vector<NamedAdapter> adapters = named_adapters(flags);
  const LoadedModel loaded = load(flags.model, flags.common);
  text::GenerationOptions options;
  options.limits = {.batch_size = flags.parallel, .sequence_length = flags.ctx_size};
  options.kv_bytes = bytes_of(flags.kv_memory);
  options.max_waiting = flags.max_waiting;
  options.max_active_per_client = flags.max_active;
  options.step_target_ms = flags.step_target_ms;
  options.prefix_cache = !flags.no_prefix_cache;
  const ServingReport report = server.serve(loaded.model, tokenizer, config, options, adapters);
  say_ready(flags, report, server.port());
}

void reload(Server& server) {
  try {
    server.reload();
    note("keys and certificates were read again");
  } catch (const Error& error) {
    note(std::string("keys and certificates stay as they are: ") + error.what());
  }
}

int run(const ServeFlags& flags) {
  if (flags.model.model.empty()) throw UsageError("no model given: use -m DIR or -m org/name (or set BUMBLEBEE_MODEL)");
  const Signals signals;
  share_heaps();
  raise_descriptor_limit();
  LogFile log(flags.log_jsonl);
  ServerOptions options = server_options(flags);
  options.log = log.sink();
  Server server(std::move(options));
  if (flags.insecure)
    note("--insecure: whoever reaches this address may use the server, and pages of any name may ask");
  signals.as_usual([&] { source(flags.model.model, flags.common).directory(); });  // a download can be stopped

  Progress progress;
  std::thread loader([&] {
    try {
      load_and_serve(flags, server);
    } catch (...) {
      progress.failure = std::current_exception();
    }
    progress.loaded = true;
    ::kill(::getpid(), SIGUSR1);
  });
  std::thread drain;
  SpareHeap spare;
  while (!progress.drained) {
    const std::optional<int> signal = signals.wait(SpareHeap::kBetweenLooks);
    if (!signal) spare.look();
    if (signal == SIGHUP) reload(server);
    if (signal == SIGINT || signal == SIGTERM) {
      if (!progress.loaded) std::_Exit(int(ExitCode::ok));  // nobody was answered yet
      if (drain.joinable()) std::_Exit(128 + *signal);      // the second one: at once
      drain = std::thread([&] {
        server.drain(milliseconds(flags.grace));
        progress.drained = true;
        ::kill(::getpid(), SIGUSR1);
      });
    }
    if (!progress.loaded || !loader.joinable()) continue;
    loader.join();
    if (progress.failure) {
      if (drain.joinable()) drain.join();
      std::rethrow_exception(progress.failure);
    }
  }
  drain.join();
  // What still goes on has had its time: an adapter that is being downloaded, a log that nobody reads.
  std::thread([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    std::_Exit(int(ExitCode::ok));
  }).detach();
  return int(ExitCode::ok);
}

void add_network_flags(Parser& verb, ServeFlags& flags) {
  const char* group = "Network";
  verb.add_option("--host", flags.host, "Address to listen on, or localhost (default 127.0.0.1: this machine alone)")
      ->option_text("ADDRESS")
      ->group(group);
  verb.add_option("--port", flags.port, "Port (default 8080; 0: any that is free)")
      ->option_text("N")
      ->check(integer_between(0, 65535))
      ->group(group);
  verb.add_option("--api-key-file", flags.api_key_file, "File with one key a line; requests need one of them")
      ->option_text("FILE")
      ->group(group);
  verb.add_option("--admin-key-file", flags.admin_key_file, "The same for loading and unloading adapters")
      ->option_text("FILE")
      ->group(group);
  verb.add_flag("--insecure", flags.insecure, "Other addresses than this machine's without keys, and any Host header")
      ->group(group);
  const Option* certificate =
      verb.add_option("--tls-cert", flags.tls_cert, "Certificate chain, PEM")->option_text("FILE")->group(group);
  verb.add_option("--tls-key", flags.tls_key, "Its key, PEM")->option_text("FILE")->needs({certificate})->group(group);
  verb.add_option("--allowed-host", flags.allowed_hosts, "Another name that the server answers to")
      ->allow_extra_args(false)
      ->option_text("NAME")
      ->group(group);
  verb.add_option("--allowed-origin", flags.allowed_origins,
                  "Origin whose pages may use the server, such as https://chat.example (CORS; default none)")
      ->allow_extra_args(false)
      ->option_text("ORIGIN")
      ->group(group);
  verb.add_option("--max-connections", flags.max_connections, "Connections at most (default 2048)")
      ->option_text("N")
      ->check(integer_between(1, 1 << 20))
      ->group(group);
  verb.add_option("--write-stall", flags.write_stall,
                  "Seconds without a byte taken before a reader is let go (default 30)")
      ->option_text("S")
      ->check(number_between(0.1, 3600))
      ->group(group);
  verb.add_option("--keep-alive", flags.keep_alive, "Seconds between comments in a quiet stream (default 10)")
      ->option_text("S")
      ->check(number_between(0.1, 3600))
      ->group(group);
}

void add_serving_flags(Parser& verb, ServeFlags& flags) {
  const char* group = "Serving";
  verb.add_option("--parallel", flags.parallel, "Answers made at once; more wait (default 16)")
      ->option_text("N")
      ->check(integer_between(1, 4096))
      ->group(group);
  verb.add_option("--max-waiting", flags.max_waiting,
                  "Answers that wait at most; more are refused with 429 (default 1024)")
      ->option_text("N")
      ->check(integer_between(1, 1 << 20))
      ->group(group);
  verb.add_option("--max-active", flags.max_active, "Answers at once of one key (default 0: no limit)")
      ->option_text("N")
      ->check(integer_between(0, 4096))
      ->group(group);
  verb.add_option("--queue-timeout", flags.queue_timeout, "Seconds that a request waits at most (default 0: no limit)")
      ->option_text("S")
      ->check(number_between(0, 86400))
      ->group(group);
  verb.add_option("--step-target-ms", flags.step_target_ms,
                  "How long prompts may hold up the answers that are being made (default 200)")
      ->option_text("MS")
      ->check(integer_between(1, 60000))
      ->group(group);
  verb.add_flag("--no-prefix-cache", flags.no_prefix_cache, "Compute every prompt anew")->group(group);
  verb.add_option("--grace", flags.grace, "Seconds that answers have to end after SIGTERM or Ctrl-C (default 30)")
      ->option_text("S")
      ->check(number_between(0, 86400))
      ->group(group);
  verb.add_option("--log-jsonl", flags.log_jsonl, "Append one line of JSON a request; '-': standard output")
      ->option_text("FILE")
      ->group(group);
  verb.add_flag("--log-prompts", flags.log_prompts, "With the bodies of requests")->group(group);
}

void add_api_flags(Parser& verb, ServeFlags& flags) {
  const char* group = "Requests";
  verb.add_option("--adapter", flags.adapters, "An adapter of mlx-lm or PEFT, which requests name as their model")
      ->allow_extra_args(false)
      ->option_text("NAME=SRC[:scale=X]")
      ->group(group);
  verb.add_option("--adapter-root", flags.adapter_root, "Directory below which adapters may be loaded while it runs")
      ->option_text("DIR")
      ->group(group);
  verb.add_flag("--allow-hub", flags.allow_hub, "Adapters may be loaded from the Hub while it runs")->group(group);
  verb.add_option("--max-adapters", flags.max_adapters, "Adapters at most (default 64)")
      ->option_text("N")
      ->check(integer_between(1, 4096))
      ->group(group);
  verb.add_option("--alias", flags.alias, "The model's name in requests (default: its directory's)")
      ->option_text("NAME")
      ->group(group);
  verb.add_option("--tool-parser", flags.tool_parser,
                  "How calls look, a name of docs/serving.md such as hermes or glm, none, or auto (default)")
      ->option_text("NAME")
      ->check(one_of({"auto", "hermes", "llama", "mistral", "harmony", "gemma4", "qwen3_coder", "seed_oss", "glm",
                      "deepseek", "granite", "phi4", "none"}))
      ->group(group);
  verb.add_option("--reasoning-parser", flags.reasoning_parser,
                  "Whether thoughts are split off: think, none, or auto (default)")
      ->option_text("NAME")
      ->check(one_of({"auto", "think", "none"}))
      ->group(group);
  verb.add_option("--reasoning-field", flags.reasoning_field, "Where they go: reasoning_content (default) or reasoning")
      ->option_text("NAME")
      ->check(one_of({"reasoning_content", "reasoning"}))
      ->group(group);
  verb.add_flag("--strict", flags.strict, "Refuse fields that are not known, instead of ignoring them")->group(group);
}

}  // namespace

void add_serve(Parser& app, Session& session) {
  auto flags = std::make_shared<ServeFlags>();
  Parser* verb = add_verb(app, {"serve", "Answer OpenAI's API over HTTP"});
  add_model_flags(*verb, flags->model);
  add_ctx_flag(*verb, flags->ctx_size);
  add_kv_memory_flag(*verb, flags->kv_memory);
  add_network_flags(*verb, *flags);
  add_serving_flags(*verb, *flags);
  add_api_flags(*verb, *flags);
  verb->footer(
      "Examples:\n  bumblebee serve -m DIR\n"
      "  bumblebee serve -m DIR --adapter poet=adapters/poet --host 0.0.0.0 --api-key-file keys.txt");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
