"""LangChain's ChatOpenAI against a running server."""
import asyncio

import checks
import openai
from checks import BUSY_URL, CALLING, KEY, MODEL, URL, check, equal, holds, raises
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI


def model(url=URL, **more):
    return ChatOpenAI(**{"base_url": url + "/v1", "api_key": KEY, "model": MODEL, "max_tokens": 24, "temperature": 0, "max_retries": 0,
                         "timeout": 600, **more})


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


hello = [SystemMessage("Be brief."), HumanMessage("Name three colours.")]


@check("invoke")
def _():
    answer = model().invoke(hello)
    holds(answer.content, "no content")
    usage = answer.usage_metadata
    equal(usage["total_tokens"], usage["input_tokens"] + usage["output_tokens"])
    holds(answer.response_metadata["finish_reason"] in ("stop", "length"), answer.response_metadata)


@check("stream, with usage")
def _():
    whole = None
    for chunk in model(stream_usage=True).stream(hello):
        whole = chunk if whole is None else whole + chunk
    equal(model().invoke(hello).content, whole.content)
    holds(whole.usage_metadata["output_tokens"] > 0, "no usage")


@check("tools: called, in a stream, and their result sent back")
def _():
    messages = [HumanMessage(text) if role == "user" else AIMessage(text) for role, text in CALLING]
    bound = model(max_tokens=60).bind_tools([get_weather])
    answer = bound.invoke(messages)
    equal([("get_weather", {"city": "Paris"})], [(call["name"], call["args"]) for call in answer.tool_calls])
    whole = None
    for chunk in bound.stream(messages):
        whole = chunk if whole is None else whole + chunk
    equal([("get_weather", {"city": "Paris"})], [(call["name"], call["args"]) for call in whole.tool_calls])
    result = ToolMessage(get_weather.invoke(answer.tool_calls[0]["args"]), tool_call_id=answer.tool_calls[0]["id"])
    holds(bound.invoke([*messages, answer, result]).usage_metadata, "no answer to a tool's result")


@check("logprobs")
def _():
    content = model().bind(logprobs=True, top_logprobs=2).invoke(hello).response_metadata["logprobs"]["content"]
    holds(content and all(len(one["top_logprobs"]) == 2 for one in content), content)


@check("n")
def _():
    several = model(n=3, temperature=1.0, seed=7).generate([hello]).generations[0]
    equal(3, len(several))


@check("completions")
def _():
    old = OpenAI(base_url=URL + "/v1", api_key=KEY, model=MODEL, max_tokens=8, temperature=0, max_retries=0)
    equal(old.invoke("One, two,"), "".join(old.stream("One, two,")))


@check("batch")
def _():
    answers = model().batch([hello] * 6, config={"max_concurrency": 6})
    equal(1, len({answer.content for answer in answers}))


@check("errors")
def _():
    raises(openai.NotFoundError, lambda: model(model="nobody").invoke(hello))
    raises(openai.BadRequestError, lambda: model(temperature=-1).invoke(hello))
    raises(openai.AuthenticationError, lambda: model(api_key="wrong").invoke(hello))
    # Too long a prompt has a class of its own, which LangChain chooses by the error's code and words.
    long = raises(openai.BadRequestError, lambda: model().invoke("1" * 100000))
    holds("ContextOverflow" in type(long).__name__, type(long).__name__)
    # Structured output asks for a json_schema, which is refused by name rather than answered with free text.
    raises(openai.BadRequestError, lambda: model().with_structured_output(get_weather.args_schema).invoke(hello))


@check("retries")
def _():
    with checks.Busy() as busy:
        raises(openai.RateLimitError, lambda: model(BUSY_URL).invoke(hello))
        busy.free_soon()
        holds(model(BUSY_URL, max_retries=8).invoke(hello).usage_metadata, "no answer")


@check("cancellation: a task that is cancelled, a stream that is left")
def _():
    endless = model(max_tokens=7000, extra_body={"ignore_eos": True})

    async def cancelled():
        task = asyncio.create_task(endless.ainvoke(hello))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        stream = endless.astream(hello)
        async for _ in stream:
            break
        await stream.aclose()
        await asyncio.sleep(1)  # LangChain closes the connection by a task of the loop's, which would end with the loop
    asyncio.run(cancelled())
    checks.idle()


checks.finish()
