// What the workers do for a request: reading its body, finding its model, its prompt's tokens, and handing it to the
// serving.
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

/// Text that cannot fit is refused before seconds of tokenizing: no token stands for more bytes than one does.
void check_length(const Tokenizer& tokenizer, int context, size_t bytes) {
  const int longest = tokenizer.max_token_bytes();
  if (longest <= 0) return;
  const int64_t least = int64_t(bytes / size_t(longest));
  if (least >= context)
    throw TooLong("messages", cat("expected at most ", context, " tokens, got a text of at least ", least), least,
                  context);
}

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
  input.client = call->caller.client.empty() ? choice.label : call->caller.client;
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
  size_t bytes = 0;
  for (const Message& message : input.messages) bytes += message.content.size();
  check_length(served->tokenizer, served->rules.context, bytes);
  Prompt prompt = served->tokenizer.apply_chat_template(input.messages, input.chat);
  input.messages.clear();
  input.tokens = std::move(prompt.tokens);
  const ModelFormats& formats = served->formats;
  if ((!request.tool_names.empty() && formats.special_tool_marks) ||
      (formats.reasoning && formats.special_thought_marks))
    input.skip_special_tokens = false;
  call->add_header("x-bumblebee-seed", std::to_string(*input.seed));
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
  const Adapters::Choice choice = now->adapters.choose(request.model, request.adapter, request.lora);
  std::vector<std::vector<int32_t>> prompts;
  for (text::Input& input : request.inputs) {
    if (request.inputs.front().seed) input.seed = request.inputs.front().seed;  // the same for all prompts
    prepare(call, request, choice, input);
    check_length(served->tokenizer, served->rules.context, input.text.size());
    if (!request.shape.token_ids) continue;
    prompts.push_back(!input.tokens.empty()
                          ? input.tokens
                          : served->tokenizer.encode(input.text, {.add_special_tokens = true,
                                                                  .parse_control_tokens = input.parse_control_tokens}));
  }
  call->add_header("x-bumblebee-seed", std::to_string(*request.inputs.front().seed));
  const std::shared_ptr<Answer> answer = make_completion_answer(place(), served, call, request, std::move(prompts));
  answer->open();
  answer->submit(request.inputs);
}

std::string Application::tokenize(Call& call, const std::string& body, Live& now) {
  const Tokenizer& tokenizer = now.served.tokenizer;
  const TokenizeRequest request = read_tokenize_request(body, now.served.rules);
  note_ignored(call, request.ignored);
  (void)now.adapters.choose(request.model, "", {});
  const std::vector<int32_t> tokens = request.messages.empty()
                                          ? tokenizer.encode(request.text, request.encode)
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
  return template_answer(now.served.tokenizer.apply_chat_template(request.messages, request.chat).text);
}

}  // namespace bumblebee::serve
