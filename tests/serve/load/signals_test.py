# Ends under load. SIGTERM: exit status 0 within the grace and a second, every stream that had begun ends with [DONE] or an error. SIGKILL:
# the next start on the same port answers as before. Long: 100 times each.
import asyncio
import random
import signal
import time
import unittest

import running
from running import client, size

GRACE = 1.0
BODY = {"prompt": "12345", "max_tokens": 8, "temperature": 0, "ignore_eos": True}


class Signals(running.LoadTest):
    async def under_load(self, server, number, after):
        """The outcomes of 24 clients; the signal comes after `after` seconds."""
        options = running.options(server.url, connections=24, seconds=10 + after, prompt_tokens="1-300", max_tokens=400, plain=0.2,
                                  field={"ignore_eos": True})
        target, outcomes = client.Target(server.url), []
        task = asyncio.create_task(running.serve_load.run_load(target, options, outcomes, time.monotonic()))
        await asyncio.sleep(after)
        server.process.send_signal(number)
        sent = time.monotonic()
        while server.process.poll() is None:
            await asyncio.sleep(0.005)
        took = time.monotonic() - sent
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        target.close()
        return outcomes, took

    def test_terminated(self):
        draw, kinds, slowest = random.Random(3), {}, 0.0
        for _ in range(size(4, 100)):
            with running.server("--parallel", 8, "--max-waiting", 64, "--grace", GRACE) as server:
                outcomes, took = asyncio.run(self.under_load(server, signal.SIGTERM, draw.uniform(0.05, 1.5)))
                self.assertEqual(0, server.process.returncode, server.said())
            slowest = max(slowest, took)
            for one in outcomes:
                kinds[one.kind] = kinds.get(one.kind, 0) + 1
                if one.status == 200:  # it had begun
                    self.assertTrue(one.kind == "done" or one.kind.startswith("stream_error:"), (one.kind, one.detail))
                else:
                    self.assertIn(one.kind, ("refused", "reset", "lost", "http_503", "http_429"), one.detail)
                    self.assertEqual(0 if one.kind in ("refused", "reset", "lost") else int(one.kind[5:]), one.status)
        print("terminated:", kinds, "slowest end", round(slowest, 2), "s")
        if running.LONG:
            self.assertLess(slowest, GRACE + 1)

    def test_a_second_signal_ends_at_once(self):
        with running.server("--parallel", 1, "--grace", 3600) as server:
            async def twice():
                target = client.Target(server.url)
                held = asyncio.create_task(client.ask(target, "POST", "/v1/completions", {**BODY, "max_tokens": 30000, "stream": True}))
                await running.until("one runs", lambda: self.one_runs(client.Target(server.url)))
                server.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.3)
                self.assertIsNone(server.process.poll(), "it did not wait for the answer")
                server.process.send_signal(signal.SIGTERM)
                await running.until("it ended", lambda: self.ended(server))
                held.cancel()
            asyncio.run(twice())
            self.assertEqual(128 + signal.SIGTERM, server.process.returncode)

    async def one_runs(self, target):
        running_now = (await running.metrics(target))["num_requests_running"]
        target.close()
        return running_now == 1

    async def ended(self, server):
        return server.process.poll() is not None

    def answer(self, server):
        async def one():
            target = client.Target(server.url)
            outcome = await client.ask(target, "POST", "/v1/completions", BODY)
            target.close()
            return outcome
        outcome = asyncio.run(one())
        self.assertEqual("done", outcome.kind, outcome.detail)
        return outcome.text

    def test_killed(self):
        draw, port, wanted = random.Random(4), 0, None
        for _ in range(size(4, 100)):
            with running.server("--parallel", 8, port=port) as server:
                port = server.port
                text = self.answer(server)
                wanted = wanted if wanted is not None else text
                self.assertEqual(wanted, text)
                asyncio.run(self.under_load(server, signal.SIGKILL, draw.uniform(0.05, 0.8)))
                self.assertEqual(-signal.SIGKILL, server.process.returncode)
        with running.server(port=port) as server:
            self.assertEqual(wanted, self.answer(server))
            self.assertEqual(0, server.end())


if __name__ == "__main__":
    running.main()
