// The official JavaScript package `openai` against a running server.
import OpenAI from "openai";
import {BUSY_URL, CALLING, KEY, MODEL, URL, busy, check, equal, finish, holds, idle, raises, sleep} from "./checks.mjs";

const make = (url = URL, more = {}) => new OpenAI({baseURL: `${url}/v1`, apiKey: KEY, maxRetries: 0, timeout: 600000, ...more});
const client = make();
const plain = {model: MODEL, messages: [{role: "user", content: "Name three colours."}], max_tokens: 24, temperature: 0};
const chat = (body, options) => client.chat.completions.create(body, options);
const endless = {...plain, max_tokens: 7000, ignore_eos: true};

await check("models", async () => {
  const names = [];
  for await (const one of client.models.list()) names.push(one.id);
  holds(names.includes(MODEL), `${names}`);
  equal(MODEL, (await client.models.retrieve(MODEL)).id);
});

await check("chat", async () => {
  const answer = await chat(plain);
  holds(answer.choices[0].message.content, "no content");
  equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

await check("stream: the same text, usage last", async () => {
  let text = "", last;
  for await (last of await chat({...plain, stream: true, stream_options: {include_usage: true}})) text += last.choices[0]?.delta.content ?? "";
  equal((await chat(plain)).choices[0].message.content, text);
  holds(last.usage.completion_tokens > 0, "no usage at the end");
});

const tools = [{type: "function", function: {name: "get_weather", description: "The weather of a city",
  parameters: {type: "object", properties: {city: {type: "string"}}, required: ["city"]}}}];
const calling = {model: MODEL, messages: CALLING, max_tokens: 60, temperature: 0, tools};

await check("tools", async () => {
  const {finish_reason, message} = (await chat(calling)).choices[0];
  equal(["tool_calls", "get_weather", '{"city": "Paris"}'],
    [finish_reason, message.tool_calls?.[0].function.name, message.tool_calls?.[0].function.arguments]);
});

await check("tools: the stream helper puts a call together", async () => {
  const {message} = (await client.chat.completions.stream(calling).finalChatCompletion()).choices[0];
  equal(["get_weather", {city: "Paris"}], [message.tool_calls[0].function.name, JSON.parse(message.tool_calls[0].function.arguments)]);
});

await check("tools: the runner calls the function and sends its result", async () => {
  const seen = [];
  const runner = client.chat.completions.runTools({...calling, tools: [{type: "function", function: {
    ...tools[0].function, parse: JSON.parse, function: ({city}) => (seen.push(city), `sunny in ${city}`)}}]}, {maxChatCompletions: 2});
  await runner.done().catch(() => {});  // a small model may call for ever
  holds(seen.length > 0 && seen.every((city) => city === "Paris"), JSON.stringify(seen));
});

await check("logprobs", async () => {
  const {logprobs, message} = (await chat({...plain, logprobs: true, top_logprobs: 3})).choices[0];
  holds(logprobs.content.every((one) => one.top_logprobs.length === 3), "top_logprobs");
  holds(Buffer.from(logprobs.content.flatMap((one) => one.bytes)).toString().startsWith(message.content), "bytes");
});

await check("n: several answers, the same in a stream", async () => {
  const several = {...plain, temperature: 1, n: 3, seed: 7};
  const answers = (await chat(several)).choices.map((choice) => choice.message.content);
  const texts = ["", "", ""];
  for await (const chunk of await chat({...several, stream: true}))
    for (const choice of chunk.choices) texts[choice.index] += choice.delta.content ?? "";
  equal(answers, texts);
});

await check("completions", async () => {
  const body = {model: MODEL, prompt: "One, two,", max_tokens: 8, temperature: 0};
  let text = "";
  for await (const chunk of await client.completions.create({...body, stream: true})) text += chunk.choices[0]?.text ?? "";
  equal((await client.completions.create(body)).choices[0].text, text);
});

await check("errors", async () => {
  const bad = await raises(chat({...plain, temperature: -1}));
  equal([400, "invalid_request_error", "temperature"], [bad.status, bad.type, bad.param]);
  equal([404, "model_not_found"], (({status, code}) => [status, code])(await raises(chat({...plain, model: "nobody"}))));
  const long = await raises(chat({...plain, messages: [{role: "user", content: "1".repeat(100000)}]}));
  equal([400, "context_length_exceeded"], [long.status, long.code]);
  holds((await raises(make(URL, {apiKey: "wrong"}).models.list())) instanceof OpenAI.AuthenticationError, "another error");
  equal("unsupported_parameter", (await raises(chat({...plain, response_format: {type: "json_object"}}))).code);
});

await check("retries", async () => busy(async (free) => {
  const full = await raises(make(BUSY_URL).chat.completions.create(plain));
  equal([429, "queue_full"], [full.status, full.code]);
  free();
  holds((await make(BUSY_URL, {maxRetries: 8}).chat.completions.create(plain)).choices, "no answer");
}));

await check("cancellation: a stream that is left, an aborted request, a client that gives up", async () => {
  for await (const _ of await chat({...endless, stream: true})) break;
  await idle();
  const leave = new AbortController();
  const answer = chat(endless, {signal: leave.signal});
  await sleep(500);
  leave.abort();
  holds((await raises(answer)) instanceof OpenAI.APIUserAbortError, "another error");
  await idle();
  holds((await raises(chat(endless, {timeout: 1000}))) instanceof OpenAI.APIConnectionTimeoutError, "another error");
  await idle();
});

await check("many at once", async () => {
  const answers = await Promise.all(Array.from({length: 24}, () => chat(plain)));
  equal(1, new Set(answers.map((answer) => answer.choices[0].message.content)).size);
});

finish();
