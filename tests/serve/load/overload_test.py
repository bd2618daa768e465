# More requests than there is room for: each is refused at once with a time to come back, and who is being answered does not feel it.
# Long: 200 a second for 100 s; then a refusal takes less than 10 ms at p99, and the healthy stream's p99 between tokens less than double.
import asyncio
import unittest

import running
from running import client, load, size, until


ENDLESS = {"prompt": "1", "max_tokens": 30000, "ignore_eos": True, "stream": True}


class Overload(running.LoadTest):
    def test_refusals_are_quick_and_harm_nobody(self):
        with running.server("--parallel", 2, "--max-waiting", 4) as server:
            asyncio.run(self.overload(server))
            self.assertEqual(0, server.end(), server.said())

    async def overload(self, server):
        target = client.Target(server.url, stuck=1e9)
        healthy, seconds, rate = [], size(3, 100), size(100, 200)
        keepers = [asyncio.create_task(self.keep_asking(target, healthy))]
        await until("one runs", lambda: self.has(target, "num_requests_running", 1))
        keepers += [asyncio.create_task(self.keep_asking(target, [])) for _ in range(5)]
        await until("two run, four wait", lambda: self.has(target, "num_requests_waiting", 4))
        await asyncio.sleep(size(2, 20))
        before = self.gaps(healthy)
        flood = asyncio.create_task(load(server.url, rate=rate, requests=rate * seconds, prompt_tokens="1-500", max_tokens=8, plain=0.5))
        await asyncio.sleep(seconds + 0.5)
        beside = self.gaps(healthy)[len(before):]
        for task in keepers:
            task.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        flood = await flood
        self.nothing_lost(flood, "http_429")
        self.assertGreater(flood["outcomes"].get("http_429", 0), flood["requests"] // 2, "the queue was not full: the test shows nothing")
        self.assertEqual(200, (await client.ask(target, "GET", "/health")).status)
        target.close()
        alone, together, refused = *map(running.serve_load.spread, (before, beside)), flood["answer_ms"]["429"]
        print("429 ms", refused, "between tokens ms before", alone, "during", together)
        if running.LONG:
            self.assertLess(refused["p99"], 10)
            self.assertLess(together["p99"], 2 * alone["p99"])

    async def keep_asking(self, target, outcomes):
        while True:
            outcomes.append(client.Outcome())
            await client.ask(target, "POST", "/v1/completions", ENDLESS, outcome=outcomes[-1])

    def gaps(self, outcomes):
        return [gap for one in outcomes for gap in one.gaps]

    def test_a_refusal_says_when_to_come_back(self):
        with running.server("--parallel", 1, "--max-waiting", 1) as server:
            asyncio.run(self.refusal(server))

    async def refusal(self, server):
        target = client.Target(server.url, stuck=1e9)
        held = []
        for name in ("num_requests_running", "num_requests_waiting"):
            held.append(asyncio.create_task(client.ask(target, "POST", "/v1/completions", ENDLESS)))
            await until(f"{name} is 1", lambda name=name: self.has(target, name, 1))
        for stream in (False, True):
            full = await client.ask(target, "POST", "/v1/completions", {**ENDLESS, "stream": stream})
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
