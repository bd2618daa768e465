// What the scripts of this folder share: where the server is, one printed line a check, a server that is kept busy.
// A script is called with URL BUSY_URL KEY MODEL, as checks.py says.
export const [URL, BUSY_URL, KEY, MODEL] = process.argv.slice(2);
let failed = 0;

const call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>';
export const CALLING = [];
for (let i = 0; i < 4; ++i) {
  CALLING.push({role: "user", content: "What is the weather in Paris?"});
  if (i < 3) CALLING.push({role: "assistant", content: call});
}

/// Runs `body` and prints one line; whatever a client throws is the finding.
export async function check(name, body) {
  try {
    await body();
    console.log(`ok ${name}`);
  } catch (error) {
    ++failed;
    console.log(`FAIL ${name}: ${error?.name}: ${String(error?.message).slice(0, 400)}`);
  }
}

export function finish() {
  process.exit(failed ? 1 : 0);
}

export function equal(wanted, got) {
  const [a, b] = [JSON.stringify(wanted), JSON.stringify(got)];
  if (a !== b) throw new Error(`expected ${a}, got ${b}`);
}

export function holds(value, what) {
  if (!value) throw new Error(`${what}`);
}

/// The error that the promise is rejected with.
export async function raises(promise) {
  let got;
  try {
    got = await promise;
  } catch (error) {
    return error;
  }
  throw new Error(`expected an error, got an answer: ${JSON.stringify(got)?.slice(0, 200)}`);
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export async function metric(name, url = URL) {
  const text = await (await fetch(`${url}/metrics`, {headers: {Authorization: `Bearer ${KEY}`}})).text();
  const line = text.split("\n").find((one) => one.startsWith(`bumblebee_${name} `));
  holds(line, `/metrics: expected bumblebee_${name}, got none`);
  return Number(line.split(" ")[1]);
}

export async function waitFor(what, condition, seconds = 300) {
  for (const until = Date.now() + 1000 * seconds; !(await condition()); await sleep(50))
    holds(Date.now() < until, `waited ${seconds} s in vain: ${what}`);
}

export async function idle(url = URL) {
  await waitFor("no request runs or waits", async () =>
    (await metric("num_requests_running", url)) + (await metric("num_requests_waiting", url)) === 0);
}

/// Runs `body` while the other server has an answer in its one place and another in its queue; `free` lets both go.
export async function busy(body) {
  await idle(BUSY_URL);
  const leave = new AbortController();
  for (const name of ["num_requests_running", "num_requests_waiting"]) {
    fetch(`${BUSY_URL}/v1/completions`, {
      method: "POST", signal: leave.signal, headers: {Authorization: `Bearer ${KEY}`, "Content-Type": "application/json"},
      body: JSON.stringify({model: MODEL, prompt: "1", max_tokens: 7000, ignore_eos: true, stream: true})}).catch(() => {});
    await waitFor(`${name} is 1`, async () => (await metric(name, BUSY_URL)) === 1);
  }
  try {
    await body(() => setTimeout(() => leave.abort(), 500));
  } finally {
    leave.abort();
  }
}
