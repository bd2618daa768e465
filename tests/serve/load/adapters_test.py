# Adapters that are loaded, replaced and unloaded while 32 streams use eight of them: every answer is what the adapter says alone, as it was
# when the request began, and the memory comes back. Long: 10,000 requests.
import asyncio
import random
import tempfile
import unittest
from pathlib import Path

import running
from running import client, idle, size

NAMES = [f"a{i}" for i in range(8)]
KEY, ADMIN = "user", "administration"


class Adapters(running.LoadTest):
    def test_hot_adapters(self):
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch) / "adapters"
            for name in NAMES:
                for version in (0, 1):
                    running.make_adapter(root / f"{name}-{version}", f"{name}/{version}")
            flags = ["--adapter-root", root, "--api-key-file", running.process.write_key(scratch, "keys", KEY), "--admin-key-file",
                     running.process.write_key(scratch, "admin", ADMIN), "--parallel", 16, "--max-waiting", 64,
                     "--ctx-size", 512, "--kv-memory", "2MiB"]  # few pages, which the answers alone fill
            with running.server(*flags) as server:
                asyncio.run(self.hot(server))
                self.assertEqual(0, server.end(), server.said())

    def body(self, model, prompt, stream):
        return {"model": model, "prompt": prompt, "max_tokens": 24, "temperature": 0, "ignore_eos": True, "stream": stream}

    async def change(self, path, status=200, **body):
        outcome = await client.ask(self.target, "POST", path, body, key=ADMIN)
        while outcome.status == 429:  # one at a time
            await asyncio.sleep(0.02)
            outcome = await client.ask(self.target, "POST", path, body, key=ADMIN)
        self.assertEqual(status, outcome.status, outcome.detail)

    async def alone(self, prompts):
        """{(name, version, prompt): what it says alone}"""
        out = {}
        for version in (1, 0):
            for name in NAMES:
                await self.change("/v1/load_lora_adapter", lora_name=name, lora_path=f"{name}-{version}", load_inplace=version == 0)
                for prompt in prompts:
                    answer = await client.ask(self.target, "POST", "/v1/completions", self.body(name, prompt, False))
                    self.assertEqual("done", answer.kind, answer.detail)
                    out[name, version, prompt] = answer.text
        return out

    async def hot(self, server):
        self.target = client.Target(server.url, key=KEY)
        prompts = [running.serve_load.digits(40 + 60 * i, "hot", i) for i in range(4)]
        solo = await self.alone(prompts)
        self.assertGreater(len(set(solo.values())), len(solo) // 2, "the adapters hardly change anything")
        # What a server takes once is taken by a run that is not counted.
        await self.storm(solo, prompts, size(300, 10000))
        before = await running.at_rest(server.pid)
        await self.storm(solo, prompts, size(300, 10000))
        after = await running.at_rest(server.pid)
        print("before", before, "after", after)
        self.assertLessEqual(after["rss_kb"], before["rss_kb"] * size(1.1, 1.01))
        self.target.close()

    async def storm(self, solo, prompts, requests):
        self.numbers, self.wrong, self.missing, self.changes = iter(range(requests)), [], 0, 0
        over = asyncio.Event()
        changing = asyncio.create_task(self.keep_changing(over))
        await asyncio.gather(*(self.use(solo, prompts) for _ in range(32)))
        over.set()
        await changing
        print("changes", self.changes, "not found", self.missing)
        self.assertEqual([], self.wrong[:3])
        self.assertGreater(self.changes, 3, "nothing was changed: the test shows nothing")
        for name in NAMES:
            await self.change("/v1/load_lora_adapter", lora_name=name, lora_path=f"{name}-0", load_inplace=True)
        await idle(self.target)

    async def use(self, solo, prompts):
        for number in self.numbers:
            draw = random.Random(number)
            name, prompt, stream = draw.choice(NAMES), draw.choice(prompts), draw.random() < 0.5
            answer = await client.ask(self.target, "POST", "/v1/completions", self.body(name, prompt, stream))
            if answer.status == 404 and "model_not_found" in answer.detail:
                self.missing += 1  # it was unloaded just then
            elif answer.kind != "done" or answer.text not in (solo[name, 0, prompt], solo[name, 1, prompt]):
                self.wrong.append((name, stream, answer.kind, answer.detail, answer.text, solo[name, 0, prompt], solo[name, 1, prompt]))

    async def keep_changing(self, over):
        draw = random.Random(5)
        while not over.is_set():
            name, version = draw.choice(NAMES), draw.randrange(2)
            if draw.random() < 0.3:
                await self.change("/v1/unload_lora_adapter", lora_name=name)
                await self.change("/v1/load_lora_adapter", lora_name=name, lora_path=f"{name}-{version}")
            else:
                await self.change("/v1/load_lora_adapter", lora_name=name, lora_path=f"{name}-{version}", load_inplace=True)
            self.changes += 1
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    running.main()
