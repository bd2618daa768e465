// What the workers do for a request: reading its body, finding its model, its prompt's tokens, and handing it to the
// serving.
#include <algorithm>
#include <array>
#include <span>

#include "base/blake2b.h"
#include "base/error.h"
#include "base/hex.h"
#include "serve/application.h"
#include "serve/random_id.h"

namespace bumblebee::serve {

namespace {

HttpResponse json(std::string body) { return {200, {{"content-type", "application/json"}}, std::move(body)}; }

/// Keys are tenants: what one's prompts computed is not found by another's, whatever salt it names.
std::string salt_of(const std::string& client, const std::string& asked) {
  if (client.empty()) return asked;
  Blake2b hash(16);
  const std::string text = client + "/" + asked;
  hash.update(std::as_bytes(std::span(text)));
  std::array<uint8_t, 16> digest{};
  hash.finish(digest);
  return hex(digest);
}

/// What tools, calls and thoughts take may be left out by a template, and is longer as JSON: what is that many times
/// the context is refused all the same. So is a text whose tokens are only counted.
constexpr size_t kSlack = 4;

/// Text that cannot fit is refused before seconds of tokenizing: no token stands for more bytes than one does.
void check_length(const Tokenizer& tokenizer, int context, size_t bytes) {
  const int longest = tokenizer.max_token_bytes();
  if (longest <= 0) return;
  const int64_t least = int64_t(bytes / size_t(longest));
  if (least >= context)
    throw TooLong("prompt", cat("expected at most ", context, " tokens, got a text of at least ", least), least,
                  context);
}

/// What messages say, and all that they and tools bring.
struct Bytes {
  size_t content = 0, all = 0;
};
Bytes bytes_of(const std::vector<Message>& messages, const ChatOptions& options) {
  Bytes bytes{0, options.tools.size()};
  for (const Message& message : messages) {
    bytes.content += message.content.size();
    bytes.all += std::max(message.content.size(), message.json.size());
  }
  return bytes;
}

/// As the library reads a prompt: a text that spells its beginning gets no second one.
std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const std::string& text, EncodeOptions options) {
  if (options.add_special_tokens && options.parse_control_tokens) {
    const std::vector<int32_t> added = tokenizer.encode("", {.add_special_tokens = true});
    if (!added.empty() && text.starts_with(tokenizer.token_of(added.front()))) options.add_special_tokens = false;
  }
  return tokenizer.encode(text, options);
}

/// An answer is cut where the context ends, but not below what the request demands.
void check_least(const text::Input& input, int context) {
  const int64_t prompt = int64_t(input.tokens.size()), least = input.config->min_new_tokens.value_or(0);
  if (prompt >= context || prompt + least <= context) return;  // a prompt that does not fit is refused as such
  throw ApiError(Refusal::context_length,
                 cat("This model's maximum context length is ", context, " tokens. However, the prompt has ", prompt,
                     " tokens, and min_tokens asks for ", least, " more."),
                 "min_tokens");
}

/// The request's value as it was written: seeds below 0 are numbers of 64 bits without sign in the library.
std::string seed_text(const text::Input& input) { return std::to_string(int64_t(*input.seed)); }

}  // namespace

void Application::work(const std::shared_ptr<Call>& call, const std::string& body) noexcept {
  if (call->finished()) return;  // the client left while it waited
  try {
    const std::shared_ptr<Live> now = live();
    switch (call->match.route->id) {
      case RouteId::chat_completions: return chat(call, body, now);
      case RouteId::completions: return complete(call, body, now);
      case RouteId::tokenize: calls_.respond(call, json(tokenize(*call, body, *now))); return;
      case RouteId::detokenize: calls_.respond(call, json(detokenize(*call, body, *now))); return;
      case RouteId::apply_template: calls_.respond(call, json(apply_template(*call, body, *now))); return;
      default: throw ApiError(Refusal::no_route, "this route has no body");
    }
  } catch (const TooLong& error) {
    const RouteId id = call->match.route->id;
    const bool text = id == RouteId::completions || id == RouteId::tokenize;
    calls_.refuse(call, ApiError(error, text ? "prompt" : "messages"));
  } catch (...) {
    calls_.refuse_current_exception(call);
  }
}

void Application::note_ignored(Call& call, const std::vector<std::string>& fields) {
  if (fields.empty()) return;
  metrics_.ignored(fields.size());
  std::string names;
  for (const std::string& field : fields) names += (names.empty() ? "" : ", ") + field;
  call.add_header("x-bumblebee-ignored", names);
}

/// What the server knows of an input, and the request does not say.
void Application::prepare(const std::shared_ptr<Call>& call, const GenerationRequest& request,
                          const Adapters::Choice& choice, text::Input& input) {
  if (!input.seed) input.seed = random_number() >> 11;  // what every client's numbers can hold
  if (input.priority < 0 && call->caller.client.empty())
    throw ApiError(Refusal::invalid_value, "expected 0 or more: only who has a key goes before others", "priority");
  input.adapters = choice.adapters;
  input.client = call->caller.client;  // without keys the serving is fair between sets of adapters
  input.cache_salt = salt_of(call->caller.client, input.cache_salt);
  if (options_.queue_timeout.count() > 0) input.queue_timeout = options_.queue_timeout;
  call->note([&](CallFacts& facts) {
    facts.model = request.model.empty() ? "default" : request.model.substr(0, 200);
    facts.adapters = choice.label;
    facts.stream = request.shape.stream;
    facts.answers += input.n;
  });
}

void Application::chat(const std::shared_ptr<Call>& call, const std::string& body, const std::shared_ptr<Live>& now) {
  const std::shared_ptr<const Served> served(now, &now->served);
  ChatRequest request = read_chat_request(body, served->rules);
  note_ignored(*call, request.ignored);
  const Adapters::Choice choice = now->adapters.choose(request.model, request.adapter, request.lora);
  text::Input& input = request.input;
  prepare(call, request, choice, input);
  const Bytes bytes = bytes_of(input.messages, input.chat);
  check_length(served->tokenizer, served->rules.context, std::max(bytes.content, bytes.all / kSlack));
  Prompt prompt = served->tokenizer.apply_chat_template(input.messages, input.chat);
  input.messages.clear();
  input.tokens = std::move(prompt.tokens);
  check_least(input, served->rules.context);
  const ModelFormats& formats = served->formats;
  if ((!request.tool_names.empty() && formats.special_tool_marks) ||
      (formats.reasoning && formats.special_thought_marks))
    input.skip_special_tokens = false;
  call->add_header("x-bumblebee-seed", seed_text(input));
  const std::shared_ptr<Answer> answer =
      make_chat_answer(place(), served, call, request, request.shape.token_ids ? input.tokens : std::vector<int32_t>{},
                       formats.reasoning && opens_thought(prompt.text));
  answer->open();
  answer->submit({std::move(input)});
}

void Application::complete(const std::shared_ptr<Call>& call, const std::string& body,
                           const std::shared_ptr<Live>& now) {
  const std::shared_ptr<const Served> served(now, &now->served);
  CompletionRequest request = read_completion_request(body, served->rules);
  note_ignored(*call, request.ignored);
  const int64_t answers = int64_t(request.inputs.size()) * request.inputs.front().n;
  if (answers > now->queue.most_requests)
    throw ApiError(Refusal::invalid_value,
                   cat("expected at most ", now->queue.most_requests,
                       " answers to one request (--parallel and --max-waiting together), got ", answers),
                   "prompt");
  const Adapters::Choice choice = now->adapters.choose(request.model, request.adapter, request.lora);
  std::vector<std::vector<int32_t>> prompts;
  for (text::Input& input : request.inputs) {
    if (request.inputs.front().seed) input.seed = request.inputs.front().seed;  // the same for all prompts
    prepare(call, request, choice, input);
    check_length(served->tokenizer, served->rules.context, input.text.size());
    if (input.tokens.empty()) {
      input.tokens = encode_prompt(served->tokenizer, input.text,
                                   {.add_special_tokens = true, .parse_control_tokens = input.parse_control_tokens});
    } else if (request.shape.echo) {
      input.text = served->tokenizer.decode(input.tokens, false);
    }
    check_least(input, served->rules.context);
    if (request.shape.token_ids) prompts.push_back(input.tokens);
  }
  call->add_header("x-bumblebee-seed", seed_text(request.inputs.front()));
  const std::shared_ptr<Answer> answer = make_completion_answer(place(), served, call, request, std::move(prompts));
  answer->open();
  answer->submit(request.inputs);
}

std::string Application::tokenize(Call& call, const std::string& body, Live& now) {
  const Tokenizer& tokenizer = now.served.tokenizer;
  const TokenizeRequest request = read_tokenize_request(body, now.served.rules);
  note_ignored(call, request.ignored);
  (void)now.adapters.choose(request.model, "", {});
  const size_t bytes = std::max(request.text.size(), bytes_of(request.messages, request.chat).all);
  check_length(tokenizer, now.served.rules.context, bytes / kSlack);
  const std::vector<int32_t> tokens = request.messages.empty()
                                          ? encode_prompt(tokenizer, request.text, request.encode)
                                          : tokenizer.apply_chat_template(request.messages, request.chat).tokens;
  std::vector<std::string> strings;
  if (request.token_strings) {
    for (const int32_t token : tokens) strings.push_back(tokenizer.token_of(token));
  }
  return tokenize_answer(tokens, now.served.rules.context, strings);
}

std::string Application::detokenize(Call& call, const std::string& body, Live& now) {
  const DetokenizeRequest request = read_detokenize_request(body, now.served.rules);
  note_ignored(call, request.ignored);
  (void)now.adapters.choose(request.model, "", {});
  return detokenize_answer(now.served.tokenizer.decode(request.tokens, false));
}

std::string Application::apply_template(Call& call, const std::string& body, Live& now) {
  const TemplateRequest request = read_template_request(body, now.served.rules);
  note_ignored(call, request.ignored);
  (void)now.adapters.choose(request.model, "", {});
  check_length(now.served.tokenizer, now.served.rules.context, bytes_of(request.messages, request.chat).all / kSlack);
  return template_answer(now.served.tokenizer.apply_chat_template(request.messages, request.chat).text);
}

}  // namespace bumblebee::serve
