// Vercel's AI SDK with its provider for servers that are compatible with OpenAI's.
import {createOpenAICompatible} from "@ai-sdk/openai-compatible";
import {APICallError, RetryError, generateText, jsonSchema, streamText, tool} from "ai";
import {BUSY_URL, CALLING, KEY, MODEL, URL, busy, check, equal, finish, holds, idle, raises, sleep} from "./checks.mjs";

const provider = (url = URL, more = {}) =>
  createOpenAICompatible({name: "bumblebee", baseURL: `${url}/v1`, apiKey: KEY, includeUsage: true, ...more});
const plain = {model: provider()(MODEL), prompt: "Name three colours.", maxOutputTokens: 24, temperature: 0, maxRetries: 0};
const endless = {...plain, maxOutputTokens: 7000, providerOptions: {bumblebee: {ignore_eos: true}}};
const weather = tool({description: "The weather of a city",
  inputSchema: jsonSchema({type: "object", properties: {city: {type: "string"}}, required: ["city"]})});

await check("generateText", async () => {
  const {text, usage, finishReason} = await generateText(plain);
  holds(text, "no text");
  equal(usage.totalTokens, usage.inputTokens + usage.outputTokens);
  holds(["stop", "length"].includes(finishReason), finishReason);
});

await check("streamText: the same text, with usage", async () => {
  const result = streamText(plain);
  let text = "";
  for await (const part of result.textStream) text += part;
  equal((await generateText(plain)).text, text);
  holds((await result.usage).outputTokens > 0, "no usage");
});

const {prompt: _, ...withoutPrompt} = plain;
const calling = {...withoutPrompt, messages: CALLING, maxOutputTokens: 60, tools: {get_weather: weather}};

await check("tools", async () => {
  const {toolCalls, finishReason} = await generateText(calling);
  equal([["get_weather", {city: "Paris"}]], toolCalls.map((call) => [call.toolName, call.input]));
  equal("tool-calls", finishReason);
});

await check("tools: in a stream", async () => {
  const result = streamText(calling);
  equal([["get_weather", {city: "Paris"}]], (await result.toolCalls).map((call) => [call.toolName, call.input]));
});

await check("tools: an earlier call and its result are sent", async () => {
  const messages = [...CALLING,
    {role: "assistant", content: [{type: "tool-call", toolCallId: "call_1", toolName: "get_weather", input: {city: "Paris"}}]},
    {role: "tool", content: [{type: "tool-result", toolCallId: "call_1", toolName: "get_weather", output: {type: "text", value: "sunny"}}]}];
  holds((await generateText({...calling, messages})).usage.inputTokens > 0, "no answer");
});

await check("fields of the provider: logprobs, n and a seed are taken", async () => {
  const {response} = await generateText({...plain, seed: 7, providerOptions: {bumblebee: {logprobs: true, top_logprobs: 2, n: 2}}});
  equal([2, 2], [response.body.choices.length, response.body.choices[0].logprobs.content[0].top_logprobs.length]);
});

await check("errors", async () => {
  const status = async (promise) => {
    const error = await raises(promise);
    holds(APICallError.isInstance(error), error);
    return error.statusCode;
  };
  equal(400, await status(generateText({...plain, temperature: -1})));
  equal(404, await status(generateText({...plain, model: provider()("nobody")})));
  equal(401, await status(generateText({...plain, model: provider(URL, {apiKey: "wrong"})(MODEL)})));
  equal(400, await status(generateText({...plain, prompt: "1".repeat(100000)})));
});

await check("retries", async () => busy(async (free) => {
  const full = await raises(generateText({...plain, model: provider(BUSY_URL)(MODEL)}));
  holds(APICallError.isInstance(full) && full.statusCode === 429 && full.isRetryable, full);
  free();
  const again = await generateText({...plain, model: provider(BUSY_URL)(MODEL), maxRetries: 8}).catch((error) => error);
  holds(!RetryError.isInstance(again) && again.usage, again);
}));

await check("cancellation: an aborted request, an aborted stream", async () => {
  const leave = new AbortController();
  const answer = generateText({...endless, abortSignal: leave.signal});
  await sleep(500);
  leave.abort();
  equal("AbortError", (await raises(answer)).name);
  await idle();
  const other = new AbortController();
  const result = streamText({...endless, abortSignal: other.signal, onError: () => {}});
  for await (const _ of result.textStream) break;
  other.abort();
  await idle();
});

await check("many at once", async () => {
  const answers = await Promise.all(Array.from({length: 24}, () => generateText(plain)));
  equal(1, new Set(answers.map((answer) => answer.text)).size);
});

finish();
