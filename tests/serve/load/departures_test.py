# Clients that leave: in the header, in the body, queued, in prefill, in mid-answer, after the end, with and without a stream, by a close
# and by a reset. Whatever they held is free again, and nothing goes on for nobody. Long: 2,000 of them.
import asyncio
import unittest

import running
from running import client, idle, load, size


class Departures(running.LoadTest):
    def test_who_leaves_frees_what_they_held(self):
        with running.server("--parallel", 8, "--max-waiting", 256) as server:
            asyncio.run(self.leave(server))
            self.assertEqual(0, server.end(), server.said())

    async def leave(self, server):
        target = client.Target(server.url)
        moments = ("header", "body", "queued", "prefill", "token", "end")
        faults = ",".join(f"leave@{moment}={1 / len(moments):.4f}" for moment in moments)
        common = {"connections": 48, "prompt_tokens": "1-3000", "field": {"ignore_eos": True}, "pid": server.pid}
        # Of those that leave, nobody waits for an end: their answers would take for ever.
        await load(server.url, requests=96, max_tokens=8, **common)
        await idle(target)
        target.close()
        before = running.serve_load.process_figures(server.pid)
        short = await load(server.url, requests=size(150, 1000), max_tokens=12, plain=0.3, fault=faults, **common)
        self.nothing_lost(short)
        at_once = ",".join(f"leave@{moment}=0.2" for moment in ("header", "body", "queued", "prefill")) + ",leave@token=1"
        endless = await load(server.url, requests=size(150, 1000), fault=at_once, max_tokens=20,
                             **{**common, "field": {"ignore_eos": True, "max_tokens": 25000}})
        self.nothing_lost(endless)
        self.assertEqual(endless["requests"], endless["outcomes"]["left"])
        now = await idle(target)
        print("tokens", now["generation_tokens_total"])
        await running.until("descriptors are back", lambda: self.descriptors_are_back(server.pid, before["fds"]))
        steps = (await running.metrics(target))["steps_total"]
        await asyncio.sleep(0.5)
        self.assertEqual(steps, (await running.metrics(target))["steps_total"], "steps for nobody")
        self.nothing_lost(await load(server.url, connections=4, requests=8, prompt_tokens=16, max_tokens=8))
        target.close()

    async def descriptors_are_back(self, pid, fds):
        return running.serve_load.process_figures(pid)["fds"] <= fds + 1  # the connection that asks for metrics


if __name__ == "__main__":
    running.main()
