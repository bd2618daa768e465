# Many streams for long: all that wait hear comments, none is lost or stuck, and the process holds afterwards what it held before.
# Long: 1,000 waiting streams beside 64 active ones for half an hour, 100,000 requests at least.
import asyncio
import unittest

import running
from running import client, idle, load, size


class Hold(running.LoadTest):
    def test_many_wait_and_none_is_lost(self):
        active, waiting = size(8, 64), size(120, 1000)
        keep_alive = size(0.1, 2)  # below what a stream waits, also where the machine is fast
        # Few pages, so that the run that is not counted fills the cache with them.
        flags = ["--parallel", active, "--max-waiting", waiting + active, "--keep-alive", keep_alive, "--ctx-size", 1024, "--kv-memory",
                 size("4MiB", "16MiB")]
        with running.server(*flags) as server:
            asyncio.run(self.hold(server, active + waiting, keep_alive))
            self.assertEqual(0, server.end(), server.said())

    async def hold(self, server, connections, keep_alive):
        target = client.Target(server.url)
        common = {"connections": connections, "prompt_tokens": "1-200", "max_tokens": size(400, 180), "keep_alive": keep_alive,
                  "field": {"ignore_eos": True}, "pid": server.pid, "plain": 0.1, "stuck": 300}
        # What a server takes once (pages, buffers, threads, what its allocator cannot give back) is taken by a run that is not counted.
        await load(server.url, requests=size(2 * connections, 0), seconds=size(0, 180), seed=7, **common)
        await idle(target)
        before = await running.at_rest(server.pid)
        out = await load(server.url, requests=size(5 * connections, 0), seconds=size(0, 1800), **common)
        self.nothing_lost(out)
        if running.LONG:
            self.assertGreaterEqual(out["requests"], 100000)
        self.assertGreater(out["keep_alives"]["streams_that_waited"], connections // 4, "too few waited: the test shows nothing")
        self.assertEqual(0, out["keep_alives"]["of_these_heard_none"])
        await idle(target)
        target.close()
        await running.until("descriptors are back", lambda: self.descriptors_are_back(server.pid, before["fds"]))
        after = await running.at_rest(server.pid)
        print("before", before, "after", after)
        self.assertLessEqual(after["rss_kb"], before["rss_kb"] * size(1.1, 1.02))

    async def descriptors_are_back(self, pid, fds):
        return running.serve_load.process_figures(pid)["fds"] <= fds


if __name__ == "__main__":
    running.main()
