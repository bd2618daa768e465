"""The official Python package `openai` against a running server."""
import asyncio

import checks
import openai
from checks import BUSY_URL, CALLING, KEY, MODEL, URL, WEATHER, check, equal, holds, metric, raises

client = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0, timeout=600)
hello = [{"role": "user", "content": "Name three colours."}]
chat = client.chat.completions.create
plain = {"model": MODEL, "messages": hello, "max_tokens": 24, "temperature": 0}


@check("models")
def _():
    holds(MODEL in [one.id for one in client.models.list()], "the model is not in the list")
    equal(MODEL, client.models.retrieve(MODEL).id)


@check("chat")
def _():
    answer = chat(**plain)
    equal(("assistant", 0), (answer.choices[0].message.role, answer.choices[0].index))
    holds(answer.choices[0].message.content, "no content")
    holds(answer.choices[0].finish_reason in ("stop", "length"), answer.choices[0].finish_reason)
    equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
    equal((MODEL, "chat.completion"), (answer.model, answer.object))


@check("chat: parts, developer, earlier tool calls, null content")
def _():
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}, {"role": "user", "content": "Thanks."}]
    holds(chat(model=MODEL, messages=messages, max_completion_tokens=4).usage.completion_tokens <= 4, "more tokens than asked for")


@check("stream: the same text, role first, usage last")
def _():
    chunks = list(chat(**plain, stream=True, stream_options={"include_usage": True}))
    equal("assistant", chunks[0].choices[0].delta.role)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    equal(chat(**plain).choices[0].message.content, text)
    equal([], chunks[-1].choices)
    holds(chunks[-1].usage.completion_tokens > 0, "no usage at the end")
    holds(all(chunk.usage is None for chunk in chunks[:-1]), "usage before the end")
    equal(1, len({chunk.id for chunk in chunks}))
    equal(1, sum(1 for chunk in chunks for choice in chunk.choices if choice.finish_reason))


@check("stream helper")
def _():
    text = ""
    with client.chat.completions.stream(**plain) as events:
        try:
            for event in events:
                text += event.delta if event.type == "content.delta" else ""
        except openai.LengthFinishReasonError:
            pass  # what it makes of an answer that was cut by max_tokens
    equal(chat(**plain).choices[0].message.content, text)


def calling(**more):
    messages = [{"role": role, "content": text} for role, text in CALLING]
    function = {"name": "get_weather", "description": "The weather of a city", "parameters": WEATHER}
    return chat(model=MODEL, messages=messages, max_tokens=60, temperature=0, tools=[{"type": "function", "function": function}], **more)


@check("tools")
def _():
    choice = calling().choices[0]
    equal("tool_calls", choice.finish_reason)
    [call] = choice.message.tool_calls
    equal(("function", "get_weather", '{"city": "Paris"}'), (call.type, call.function.name, call.function.arguments))
    holds(call.id, "no id")


@check("tools: in a stream")
def _():
    name, arguments, ids, finish = "", "", [], None
    for chunk in calling(stream=True):
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for part in choice.delta.tool_calls or []:
                equal(0, part.index)
                ids += [part.id] if part.id else []
                name += part.function.name or ""
                arguments += part.function.arguments or ""
    equal(("get_weather", '{"city": "Paris"}', 1, "tool_calls"), (name, arguments, len(ids), finish))


@check("tools: none are called with tool_choice none")
def _():
    holds(not calling(tool_choice="none").choices[0].message.tool_calls, "a tool was called")


@check("logprobs")
def _():
    for stream in (False, True):
        if stream:
            answer = list(chat(**plain, logprobs=True, top_logprobs=3, stream=True))
            content = [one for chunk in answer for choice in chunk.choices if choice.logprobs for one in choice.logprobs.content or []]
            text = "".join(choice.delta.content or "" for chunk in answer for choice in chunk.choices)
        else:
            choice = chat(**plain, logprobs=True, top_logprobs=3).choices[0]
            content, text = choice.logprobs.content, choice.message.content
        spelled = bytes(byte for one in content for byte in one.bytes).decode()
        holds(spelled.startswith(text), f"bytes of the tokens: {spelled!r}, text: {text!r}")
        for one in content:
            equal(3, len(one.top_logprobs))
            equal(sorted((top.logprob for top in one.top_logprobs), reverse=True), [top.logprob for top in one.top_logprobs])
            equal(one.logprob, one.top_logprobs[0].logprob)  # temperature 0 takes the likeliest
            holds(one.logprob <= 0, "a positive logprob")


@check("n: several answers, the same in a stream")
def _():
    several = {**plain, "temperature": 1.0, "n": 3, "seed": 7}
    answers = chat(**several).choices
    equal([0, 1, 2], [choice.index for choice in answers])
    holds(len({choice.message.content for choice in answers}) > 1, "all answers are the same")
    texts = ["", "", ""]
    for chunk in chat(**several, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    equal([choice.message.content for choice in answers], texts)


@check("seed, stop, logit_bias")
def _():
    drawn = {**plain, "temperature": 1.0, "seed": 5}
    equal(chat(**drawn).choices[0].message.content, chat(**drawn).choices[0].message.content)
    whole = chat(**plain).choices[0].message.content
    stop = whole[len(whole) // 2:][:3]
    cut = chat(**plain, stop=[stop]).choices[0]
    equal((whole[:whole.index(stop)], "stop"), (cut.message.content, cut.finish_reason))
    holds(chat(**plain, logit_bias={"5": -100, "6": 0}).choices[0].message.content, "no content")


@check("completions")
def _():
    complete = client.completions.create
    answer = complete(model=MODEL, prompt="One, two, three,", max_tokens=8, temperature=0, logprobs=2)
    equal(("text_completion", 8), (answer.object, answer.usage.completion_tokens))
    equal(8, len(answer.choices[0].logprobs.tokens))
    text = "".join(chunk.choices[0].text for chunk in complete(model=MODEL, prompt="One, two, three,", max_tokens=8, temperature=0, stream=True)
                   if chunk.choices)
    equal(answer.choices[0].text, text)
    equal([0, 1], [choice.index for choice in complete(model=MODEL, prompt=["a", "b"], max_tokens=2).choices])
    equal("One, two, three," + answer.choices[0].text,
          complete(model=MODEL, prompt="One, two, three,", max_tokens=8, temperature=0, echo=True).choices[0].text)


@check("errors")
def _():
    bad = raises(openai.BadRequestError, lambda: chat(**{**plain, "temperature": -1}))
    equal(("invalid_request_error", "temperature"), (bad.type, bad.param))
    equal("model_not_found", raises(openai.NotFoundError, lambda: chat(**{**plain, "model": "nobody"})).code)
    long = raises(openai.BadRequestError, lambda: chat(**{**plain, "messages": [{"role": "user", "content": "1" * 100000}]}))
    equal("context_length_exceeded", long.code)
    holds("maximum context length" in long.message, long.message)
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": WEATHER}}
    equal("unsupported_parameter", raises(openai.BadRequestError, lambda: chat(**plain, response_format=schema)).code)
    equal("invalid_api_key", raises(openai.AuthenticationError, lambda: client.with_options(api_key="wrong").models.list()).code)
    raises(openai.NotFoundError, lambda: client.embeddings.create(model=MODEL, input="x"))
    raises(openai.BadRequestError, lambda: chat(**plain, stream=True, n=99))  # refused before the stream begins


@check("headers: the request's id, fields that are ignored")
def _():
    raw = client.chat.completions.with_raw_response.create(**plain, extra_body={"from_the_future": 1}, user="somebody")
    holds(raw.headers.get("x-request-id"), "no x-request-id")
    holds("from_the_future" in raw.headers.get("x-bumblebee-ignored", ""), dict(raw.headers))


busy_client = openai.OpenAI(base_url=BUSY_URL + "/v1", api_key=KEY, max_retries=0, timeout=600)


@check("retries: a full queue is 429 with a time, and a client that retries is served")
def _():
    with checks.Busy() as busy:
        full = raises(openai.RateLimitError, lambda: busy_client.chat.completions.create(**plain))
        equal("queue_full", full.code)
        holds(1 <= int(full.response.headers["retry-after"]) <= 60, full.response.headers["retry-after"])
        busy.free_soon()
        holds(busy_client.with_options(max_retries=8).chat.completions.create(**plain).choices, "no answer")


@check("cancellation: a closed stream, a client that gives up, a cancelled task")
def _():
    endless = {**plain, "max_tokens": 7000, "extra_body": {"ignore_eos": True}}
    stream = chat(**endless, stream=True)
    for _, _ in zip(range(3), stream):
        pass
    stream.close()
    checks.idle()
    raises(openai.APITimeoutError, lambda: client.with_options(timeout=1).chat.completions.create(**endless))
    checks.idle()

    async def cancelled():
        async with openai.AsyncOpenAI(base_url=URL + "/v1", api_key=KEY) as other:
            task = asyncio.create_task(other.chat.completions.create(**endless))
            await asyncio.sleep(0.5)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    asyncio.run(cancelled())
    checks.idle()
    before = metric("generation_tokens_total")
    chat(**{**plain, "max_tokens": 1})
    holds(metric("generation_tokens_total") - before <= 2, "something else still generates")


@check("many at once")
def _():
    async def many():
        async with openai.AsyncOpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0, timeout=600) as other:
            answers = await asyncio.gather(*(other.chat.completions.create(**plain) for _ in range(24)))
            return {answer.choices[0].message.content for answer in answers}
    equal({chat(**plain).choices[0].message.content}, asyncio.run(many()))


checks.finish()
