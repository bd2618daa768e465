// Loading and unloading adapters while others are answered: one at a time, on a thread of its own.
#include <algorithm>
#include <chrono>
#include <new>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/host_memory.h"
#include "base/json.h"
#include "serve/application.h"
#include "serve/confined_path.h"

namespace bumblebee::serve {

namespace {

OrderedJson described(const ServedAdapter& one) {
  const AdapterInfo& info = one.adapter.info();
  return {{"name", one.name},
          {"generation", one.generation},
          {"id", info.id},
          {"source", one.source},
          {"format", info.format},
          {"kind", info.kind},
          {"rank", info.rank},
          {"modules", info.modules.size()},
          {"bytes", info.bytes},
          {"loaded", std::chrono::duration_cast<std::chrono::seconds>(one.loaded.time_since_epoch()).count()}};
}

/// `path` from `root` on, where it begins with the root: as that was given, or in full, which is what vLLM's clients
/// send. A comparison of names only: what it leads to is for ConfinedDirectory.
std::string below(const std::filesystem::path& root, const std::string& path) {
  for (const std::filesystem::path& spelling : {root, std::filesystem::absolute(root).lexically_normal()}) {
    std::string start = spelling.string();
    while (start.ends_with('/')) start.pop_back();
    start += '/';
    if (path.starts_with(start)) return path.substr(start.size());
  }
  return path;
}

/// Gives back what packing took, where no name stands for the same weights.
void give_back(const Served& served, const Adapters& adapters, const Adapter& gone) {
  const auto all = adapters.list();
  if (std::none_of(all.begin(), all.end(), [&](const auto& one) { return one->adapter.info().id == gone.info().id; }))
    served.model.unload_adapter(gone);
}

}  // namespace

std::string adapters_answer(const Adapters& adapters) {
  OrderedJson data = OrderedJson::array();
  for (const std::shared_ptr<const ServedAdapter>& one : adapters.list()) data.push_back(described(*one));
  return OrderedJson{{"object", "list"}, {"data", std::move(data)}}.dump();
}

void Application::administer(const std::shared_ptr<Call>& call, const std::string& body) noexcept {
  const Call::Clock::time_point started = Call::Clock::now();
  const bool load = call->match.route->id == RouteId::load_adapter;
  bool good = false;
  try {
    const std::shared_ptr<Live> now = live();
    std::string answer = load ? load_adapter(body, *now) : unload_adapter(body, *now);
    adapter_busy_ = false;  // before the answer: who has it may send the next
    calls_.respond(call, {200, {{"content-type", "application/json"}}, std::move(answer)});
    good = true;
  } catch (...) {
    adapter_busy_ = false;
    calls_.refuse_current_exception(call);
  }
  if (load) metrics_.adapter_load(good, std::chrono::duration<double>(Call::Clock::now() - started).count());
}

/// The adapter at a request's lora_path, below the root, or of the Hub where that is allowed. What `check` throws of it
/// names the path too.
Adapter Application::read_adapter(const LoadAdapterRequest& request,
                                  const std::function<void(const Adapter&)>& check) const {
  const std::string& path = request.path;
  const auto read = [&](const Repository& place) {
    Adapter adapter = bumblebee::load_adapter(place, {.scale = {}, .name = request.name});
    check(adapter);
    return adapter;
  };
  const bool hub = path.starts_with("hf://") || (!options_.adapter_root && options_.allow_hub);
  if (hub) {
    if (!options_.allow_hub)
      throw ApiError(Refusal::invalid_value, "expected a path below --adapter-root; the Hub needs --allow-hub",
                     "lora_path");
    const std::string source = path.starts_with("hf://") ? path : "hf://" + path;
    const size_t at = std::min(source.find('@'), source.size());
    const std::string place = source.substr(5, at - 5);
    const size_t folder = place.find('/', place.find('/') + 1);
    // Throws for what is no repository's: repository() would take it for a path of this machine's.
    HubOptions options;
    options.progress = [this](const HubProgress&) { return !drained_; };
    if (at < source.size()) options.revision = source.substr(at + 1);
    (void)hf(place.substr(0, folder), options);
    return read(repository(source, options));
  }
  if (!options_.adapter_root)
    throw ApiError(Refusal::invalid_value,
                   "this server loads no adapters: it was started without --adapter-root and --allow-hub", "lora_path");
  const ConfinedDirectory place(*options_.adapter_root, below(*options_.adapter_root, path));
  try {
    return read(local(place.path()));
  } catch (const Error& error) {  // it says "[where] what", and where is what a client cannot know
    const std::string text = place.said(error.what());
    const size_t end = std::min(text.find("] "), text.size());
    if (!text.starts_with('[') || end == text.size()) throw;
    throw Error(error.code(), text.substr(1, end - 1), text.substr(end + 2));
  }
}

void Application::unload(Live& now, const Adapter& adapter) {
  give_back(now.served, now.adapters, adapter);
  const std::lock_guard lock(mutex_);
  gone_.push_back({adapter, calls_.ids().second});
}

/// Requests that chose an adapter before it was unloaded, and wait, pack it once more when their turn comes.
void Application::unload_again(Live& now) noexcept {
  try {
    std::vector<Gone> gone;
    {
      const std::lock_guard lock(mutex_);
      if (gone_.empty()) return;
      gone.swap(gone_);
    }
    const uint64_t oldest = calls_.ids().first;
    for (const Gone& one : gone) give_back(now.served, now.adapters, one.adapter);
    std::erase_if(gone, [&](const Gone& one) { return one.last < oldest; });
    const std::lock_guard lock(mutex_);
    gone_.insert(gone_.end(), gone.begin(), gone.end());
  } catch (const std::bad_alloc&) {  // until the limit of packed adapters makes room
  }
}

std::string Application::load_adapter(const std::string& body, Live& now) {
  const LoadAdapterRequest request = read_load_adapter_request(body, now.served.rules);
  if (!Adapters::good_name(request.name))
    throw ApiError(Refusal::invalid_value, "expected 1 to 64 letters, digits and ._-", "lora_name");
  Adapters::Expected expected{.in_place = request.in_place, .generation = {}};
  if (request.expected_generation) expected.generation = uint64_t(*request.expected_generation);
  now.adapters.check(request.name, expected);
  // Adapters stay on the host while they can be named: a quarter of the memory is enough for them.
  const auto check_memory = [&] {
    const uint64_t host = now.served.model.adapter_memory().host_bytes, most = host_memory().total / 4;
    if (host > most)
      throw ApiError(Refusal::adapters_full,
                     cat("adapters take ", host, " bytes of memory, at most ", most, " are allowed; unload one first"));
  };
  check_memory();
  const auto read = [&] {
    try {
      return read_adapter(request, [&](const Adapter& fresh) {
        check_memory();  // with it
        now.served.model.prepare_adapters({fresh});
      });
    } catch (const Error& error) {
      throw ApiError(error, "lora_path");
    }
  };
  Adapter adapter = read();
  std::shared_ptr<const ServedAdapter> replaced;
  now.adapters.put(request.name, std::move(adapter), request.path, expected, &replaced);
  if (replaced) unload(now, replaced->adapter);
  return described(*now.adapters.find(request.name)).dump();
}

std::string Application::unload_adapter(const std::string& body, Live& now) {
  const UnloadAdapterRequest request = read_unload_adapter_request(body, now.served.rules);
  std::optional<uint64_t> expected;
  if (request.expected_generation) expected = uint64_t(*request.expected_generation);
  const std::shared_ptr<const ServedAdapter> gone = now.adapters.remove(request.name, expected);
  unload(now, gone->adapter);
  return described(*gone).dump();
}

}  // namespace bumblebee::serve
