# More requests than there is room for: each is refused at once with a time to come back, and who is being answered does not feel it.
# Long: 200 a second for 100 s; then a refusal takes less than 10 ms at p99, and the healthy stream's p99 between tokens less than double.
import asyncio
import unittest

import running
from running import client, idle, load, size, until


class Overload(running.LoadTest):
    def test_refusals_are_quick_and_harm_nobody(self):
        with running.server("--parallel", 2, "--max-waiting", 4) as server:
            asyncio.run(self.overload(server))
            self.assertEqual(0, server.end(), server.said())

    async def overload(self, server):
        target = client.Target(server.url, stuck=1e9)
        await idle(target)
        healthy = {"connections": 1, "requests": size(1, 4), "prompt_tokens": 16, "max_tokens": size(1500, 6000),
                   "field": {"ignore_eos": True, "priority": -1}}
        alone = await load(server.url, **healthy)
        # One stream in the second place and four in the queue, until the end.
        body = {"prompt": "1", "max_tokens": 30000, "ignore_eos": True, "stream": True}
        held = [asyncio.create_task(client.ask(target, "POST", "/v1/completions", body)) for _ in range(1)]
        await until("one runs", lambda: self.has(target, "num_requests_running", 1))
        beside = asyncio.create_task(load(server.url, **healthy))
        await until("two run", lambda: self.has(target, "num_requests_running", 2))
        held += [asyncio.create_task(client.ask(target, "POST", "/v1/completions", body)) for _ in range(4)]
        await until("four wait", lambda: self.has(target, "num_requests_waiting", 4))
        flood = await load(server.url, rate=size(100, 200), requests=size(300, 20000), prompt_tokens="1-500", max_tokens=8, plain=0.5)
        together = await beside
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        refused = flood["outcomes"].get("http_429", 0)
        self.nothing_lost(flood, "http_429")
        self.nothing_lost(together)
        self.assertGreater(refused, flood["requests"] // 2, "the queue was not full: the test shows nothing")
        one = await client.ask(target, "GET", "/health")
        self.assertEqual(200, one.status)
        print("429 p99 ms", flood["answer_ms"]["429"]["p99"], "between tokens p99 ms alone", alone["between_tokens_ms"]["p99"], "beside",
              together["between_tokens_ms"]["p99"])
        if running.LONG:
            self.assertLess(flood["answer_ms"]["429"]["p99"], 10)
            self.assertLess(together["between_tokens_ms"]["p99"], 2 * alone["between_tokens_ms"]["p99"])

    def test_a_refusal_says_when_to_come_back(self):
        with running.server("--parallel", 1, "--max-waiting", 1) as server:
            asyncio.run(self.refusal(server))

    async def refusal(self, server):
        target = client.Target(server.url, stuck=1e9)
        body = {"prompt": "1", "max_tokens": 30000, "ignore_eos": True, "stream": True}
        held = []
        for name in ("num_requests_running", "num_requests_waiting"):
            held.append(asyncio.create_task(client.ask(target, "POST", "/v1/completions", body)))
            await until(f"{name} is 1", lambda name=name: self.has(target, name, 1))
        for stream in (False, True):
            full = await client.ask(target, "POST", "/v1/completions", {**body, "stream": stream})
            self.assertEqual("http_429", full.kind)
            self.assertIn("queue_full", full.detail)
            self.assertTrue(1 <= int(full.headers["retry-after"]) <= 60, full.headers)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)

    async def has(self, target, name, value):
        return (await running.metrics(target))[name] == value


if __name__ == "__main__":
    running.main()
