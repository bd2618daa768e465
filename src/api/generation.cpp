// The handles of a serving and of its requests, and the servings that a process knows by name.
#include "bumblebee/generation.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "api/caller.h"
#include "api/generator.h"
#include "api/reaper.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thought_tags.h"

namespace bumblebee::text {

const char* to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop: return "stop";
    case FinishReason::length: return "length";
    case FinishReason::cancelled: return "cancelled";
  }
  return "unknown";
}

std::string Result::without_thoughts() const {
  constexpr std::string_view kBlanks = " \n\r\t";
  const auto is_mark = [&](size_t at) { return !marks || std::binary_search(marks->begin(), marks->end(), at); };
  struct Found {
    size_t at = std::string::npos, size = 0;
  };
  const auto first_of = [&](const ThoughtTags& tags, size_t from) {
    Found first;
    for (const std::string_view tag : tags) {
      size_t at = text.find(tag, from);
      while (at != std::string::npos && !is_mark(at)) at = text.find(tag, at + 1);
      if (at < first.at) first = {at, tag.size()};
    }
    return first;
  };
  if (!marks && first_of(kThoughtOpens, 0).at != 0) return text;
  std::string said;
  for (size_t from = 0;;) {
    const Found open = first_of(kThoughtOpens, from);
    said.append(text, from, open.at == std::string::npos ? open.at : open.at - from);
    if (open.at == std::string::npos) return said;
    const Found close = first_of(kThoughtCloses, open.at + open.size);
    from = close.at == std::string::npos ? close.at : text.find_first_not_of(kBlanks, close.at + close.size);
    if (from == std::string::npos) return said;
    if (!marks) return said + text.substr(from);
  }
}

Result Generation::run(const Input& input) const { return stream(input, nullptr); }

std::vector<Result> Generation::run(std::span<const Input> inputs) const { return stream(inputs, nullptr); }

Result Generation::stream(const Input& input, const TextCallback& piece) const {
  std::function<bool(size_t, std::string_view)> one;
  if (piece) one = [&piece](size_t, std::string_view text) { return piece(text); };
  return std::move(stream(std::span(&input, 1), one).front());
}

std::vector<Result> Generation::stream(std::span<const Input> inputs,
                                       const std::function<bool(size_t, std::string_view)>& piece) const {
  const std::shared_ptr<detail::Generator> generator = generator_;  // whoever drops this handle meanwhile
  return detail::call(*generator, inputs, piece);
}

Request Generation::submit(const Input& input, std::shared_ptr<Listener> listener) const {
  if (input.prompt_progress) {
    throw Error(ErrorCode::bad_request, "generation",
                "prompt_progress: expected nothing, got a function; run() and stream() call it, submit() does not");
  }
  const std::shared_ptr<detail::Generator> generator = generator_;
  return Request(generator->submit(generator->prepare(input), std::move(listener)));
}

GenerationLimits Generation::limits() const { return generator_->limits(); }

ServingStats Generation::stats() const { return generator_->engine().stats(); }

bool Generation::drain(std::chrono::milliseconds timeout) const {
  api::OnServingsThread::refuse("drain");
  const std::shared_ptr<detail::Generator> generator = generator_;
  return generator->engine().drain(timeout);
}

void Generation::set_adapters(const std::vector<WeightedAdapter>& adapters) const {
  generator_->set_adapters(adapters);
}

uint64_t Request::id() const { return state_->id(); }
void Request::cancel() const { state_->cancel(); }
std::vector<Result> Request::wait() const {
  const std::shared_ptr<detail::RequestState> state = state_;
  return state->wait();
}

Generation generation(const Model& model, const Tokenizer& tokenizer, const GenerationConfig& config,
                      const GenerationOptions& options) {
  validate(config);
  const int table = model.info().vocab, ids = tokenizer.vocab_size();
  if (ids / 2 > table) {
    throw Error(ErrorCode::bad_config, "generation",
                cat("the tokenizer does not belong to the model: expected about ", table, " tokens, got ", ids));
  }
  // Tokens that were added and never trained; a prompt that has one is refused.
  if (ids > table) {
    note("tokenizer", ids, " tokens, of which the model has ", table, ": ids from ", table, " on cannot be used");
  }
  return Generation(std::make_shared<detail::Generator>(model, tokenizer, config, options));
}

namespace {

struct Registry {
  std::mutex mutex;
  std::map<std::string, Generation> servings;
};
Registry& registry() {
  static auto* one = new Registry;  // its servings run until the process ends, whatever main() has destroyed by then
  return *one;
}

Generation serving_of(const std::string& name) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto found = all.servings.find(name);
  if (found != all.servings.end()) return found->second;
  throw Error(ErrorCode::bad_request, "batched_run",
              cat("expected the name of a registered serving, got '", name, "'"));
}

}  // namespace

void register_serving(const std::string& name, const Generation& serving) {
  if (name.empty()) throw Error(ErrorCode::bad_request, "register_serving", "expected a name, got nothing");
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  if (!all.servings.emplace(name, serving).second)
    throw Error(ErrorCode::bad_request, "register_serving", cat("expected a name that is free, got '", name, "'"));
}

bool unregister_serving(const std::string& name) {
  Registry& all = registry();
  decltype(all.servings)::node_type gone;  // ends, if it does, without the lock
  const std::lock_guard lock(all.mutex);
  gone = all.servings.extract(name);
  return bool(gone);
}

Result batched_run(const std::string& name, const Input& input) { return serving_of(name).run(input); }

std::vector<Result> batched_run(const std::string& name, std::span<const Input> inputs) {
  return serving_of(name).run(inputs);
}

}  // namespace bumblebee::text
