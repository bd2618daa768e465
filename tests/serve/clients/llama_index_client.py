"""LlamaIndex' OpenAILike against a running server, as a chat model and as the model of completions that it is by default."""
import asyncio

import checks
import openai
from checks import BUSY_URL, CALLING, KEY, MODEL, URL, check, equal, holds, raises
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike


def model(url=URL, **more):
    return OpenAILike(**{"api_base": url + "/v1", "api_key": KEY, "model": MODEL, "max_tokens": 24, "temperature": 0, "max_retries": 0,
                         "timeout": 600, "is_chat_model": True, "context_window": 2048, **more})


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


hello = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Name three colours.")]


@check("chat")
def _():
    holds(model().chat(hello).message.content, "no content")


@check("stream")
def _():
    text = ""
    for part in model().stream_chat(hello):
        text += part.delta or ""
    equal(model().chat(hello).message.content, text)


@check("completions, which are its default")
def _():
    old = model(is_chat_model=False, max_tokens=8)
    text = ""
    for part in old.stream_complete("One, two,"):
        text += part.delta or ""
    equal(old.complete("One, two,").text, text)


@check("tools")
def _():
    llm = model(is_function_calling_model=True, max_tokens=60)
    history = [ChatMessage(role=role, content=text) for role, text in CALLING]
    answer = llm.chat_with_tools([FunctionTool.from_defaults(get_weather)], chat_history=history)
    [call] = llm.get_tool_calls_from_response(answer)
    equal(("get_weather", {"city": "Paris"}), (call.tool_name, call.tool_kwargs))
    last = None
    for last in llm.stream_chat_with_tools([FunctionTool.from_defaults(get_weather)], chat_history=history):
        pass
    [call] = llm.get_tool_calls_from_response(last)
    equal(("get_weather", {"city": "Paris"}), (call.tool_name, call.tool_kwargs))


@check("logprobs")
def _():
    answer = model(logprobs=True, top_logprobs=2).chat(hello)
    holds(answer.logprobs and len(answer.logprobs[0]) == 2, answer.logprobs)


@check("n")
def _():
    equal(3, len(model(additional_kwargs={"n": 3}, temperature=1.0).chat(hello).raw.choices))


@check("errors")
def _():
    raises(openai.NotFoundError, lambda: model(model="nobody").chat(hello))
    raises(openai.BadRequestError, lambda: model(additional_kwargs={"n": 99}).chat(hello))
    raises(openai.AuthenticationError, lambda: model(api_key="wrong").chat(hello))
    long = [ChatMessage(role="user", content="1" * 100000)]
    holds("maximum context length" in str(raises(openai.BadRequestError, lambda: model().chat(long))), "other words")


@check("retries")
def _():
    with checks.Busy() as busy:
        raises(openai.RateLimitError, lambda: model(BUSY_URL).chat(hello))
        busy.free_soon()
        holds(model(BUSY_URL, max_retries=8).chat(hello).message, "no answer")


@check("cancellation: a stream that is left, a client that gives up")
def _():
    endless = {"max_tokens": 7000, "additional_kwargs": {"extra_body": {"ignore_eos": True}}}

    async def left():
        stream = await model(**endless).astream_chat(hello)
        async for _ in stream:
            break
        await stream.aclose()
    asyncio.run(left())
    checks.idle()
    raises(openai.APITimeoutError, lambda: model(**endless, timeout=1).chat(hello))
    checks.idle()


checks.finish()
