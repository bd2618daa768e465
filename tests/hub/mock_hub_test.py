# Proves the mock Hub: what an honest Hub answers, and that each fault is what its name says. A fault that does not happen would let
# the client's tests pass for nothing.
import hashlib
import http.client
import json
import sys
import tempfile
import time
import unittest
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
from mock_hub import Mock  # noqa: E402

DATA = bytes(range(256)) * 40


class MockHub(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.mock = Mock()
        cls.scratch = tempfile.TemporaryDirectory()
        cls.files = Path(cls.scratch.name)
        (cls.files / "sub").mkdir()
        (cls.files / "config.json").write_text("{}")
        (cls.files / "empty.json").write_text("")
        (cls.files / "sub" / "model.safetensors").write_bytes(DATA)

    @classmethod
    def tearDownClass(cls):
        cls.mock.close()
        cls.scratch.cleanup()

    def setUp(self):
        self.mock.reset()
        self.sha = self.mock.command({"op": "commit", "repo": "org/name", "dir": str(self.files), "branch": "main", "pull": "3"})["commit"]

    def ask(self, target, method="GET", **headers):
        """(status, headers, body, whether the body was whole); `target` with or without a host."""
        url = urlsplit(target if "://" in target else self.mock.hub + target)
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=600)
        try:
            connection.request(method, url.path + ("?" + url.query if url.query else ""), headers={k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            try:
                return answer.status, answer.headers, answer.read(), True
            except http.client.IncompleteRead as e:
                return answer.status, answer.headers, e.partial, False
        finally:
            connection.close()

    def large(self, **headers):
        return self.ask(self.ask("/org/name/resolve/main/sub/model.safetensors")[1]["Location"], **headers)

    def fault(self, **rule):
        self.mock.command({"op": "fault", **rule})

    def test_small_files_are_one_relative_redirect_away(self):
        status, headers, _, _ = self.ask("/org/name/resolve/main/config.json", method="HEAD")
        self.assertEqual((status, headers["X-Repo-Commit"], headers["X-Linked-Size"]), (307, self.sha, "2"))
        oid = hashlib.sha1(b"blob 2\0{}").hexdigest()
        self.assertEqual(headers["X-Linked-Etag"], f'"{oid}"')
        self.assertTrue(headers["Location"].startswith("/api/resolve-cache/models/org/name/"))
        status, headers, body, _ = self.ask(headers["Location"])
        self.assertEqual((status, body, headers["ETag"]), (200, b"{}", f'"{oid}"'))

    def test_large_files_are_on_another_host(self):
        status, headers, _, _ = self.ask("/org/name/resolve/main/sub/model.safetensors")
        self.assertEqual(status, 302)
        self.assertEqual(headers["X-Linked-Etag"], f'"{hashlib.sha256(DATA).hexdigest()}"')
        self.assertNotEqual(urlsplit(headers["Location"]).hostname, urlsplit(self.mock.hub).hostname)
        self.assertEqual(self.large()[:3:2], (200, DATA))
        self.assertEqual(self.large(Authorization="Bearer x")[0], 400)

    def test_ranges(self):
        status, headers, body, _ = self.large(Range="bytes=100-")
        self.assertEqual((status, body, headers["Content-Range"]), (206, DATA[100:], f"bytes 100-{len(DATA) - 1}/{len(DATA)}"))
        self.assertEqual(self.large(Range="bytes=5-9")[2], DATA[5:10])
        status, headers, _, _ = self.large(Range=f"bytes={len(DATA)}-")
        self.assertEqual((status, headers["Content-Range"]), (416, f"bytes */{len(DATA)}"))

    def test_listing_in_pages(self):
        self.mock.command({"op": "repo", "repo": "org/name", "page_size": 3})
        _, headers, body, _ = self.ask("/api/models/org/name/tree/main?recursive=true")
        entries, link = json.loads(body), headers["Link"]
        self.assertTrue(link.endswith('; rel="next"'), link)
        _, headers, body, _ = self.ask(link[1:link.index(">")])
        entries += json.loads(body)
        self.assertNotIn("Link", headers)
        self.assertEqual({(e["type"], e["path"]) for e in entries},
                         {("file", "config.json"), ("file", "empty.json"), ("directory", "sub"), ("file", "sub/model.safetensors")})
        self.assertEqual(entries[-1]["lfs"]["size"], len(DATA))

    def test_revisions_and_refusals(self):
        for revision in ("main", "refs%2Fpr%2F3", self.sha, "refs%2Fheads%2Fmain"):
            self.assertEqual(json.loads(self.ask(f"/api/models/org/name/revision/{revision}")[2])["sha"], self.sha)
        self.assertEqual(json.loads(self.ask("/api/models/org/name/refs?include_prs=1")[2])["pullRequests"][0]["ref"], "refs/pr/3")
        expected = {"/api/models/org/name/revision/v9": (404, "RevisionNotFound"), "/org/name/resolve/main/none": (404, "EntryNotFound"),
                    "/api/models/org/none/revision/main": (401, "RepoNotFound")}
        for target, (status, code) in expected.items():
            got = self.ask(target)
            self.assertEqual((got[0], got[1]["X-Error-Code"]), (status, code))
        self.mock.command({"op": "repo", "repo": "org/name", "gated": True, "accepted": False})
        self.assertEqual(self.ask("/org/name/resolve/main/config.json")[0], 401)
        got = self.ask("/org/name/resolve/main/config.json", Authorization="Bearer x")
        self.assertEqual((got[0], got[1]["X-Error-Code"]), (403, "GatedRepo"))

    def test_bodies_that_break(self):
        self.fault(where="cdn", truncate_at=100, times=1)
        self.assertEqual(self.large()[2:], (DATA[:100], False))
        self.assertEqual(self.large()[2:], (DATA, True))
        self.fault(where="cdn", reset_at=100, times=1)
        with self.assertRaises(ConnectionResetError):
            self.large()
        self.fault(where="cdn", drop=True, times=1)
        with self.assertRaises(http.client.RemoteDisconnected):
            self.large()

    def test_bodies_that_lie(self):
        self.fault(where="cdn", flip=1000, times=1)
        got = self.large()[2]
        self.assertEqual([i for i in range(len(DATA)) if got[i] != DATA[i]], [1000])
        self.fault(where="cdn", ignore_range=True, times=1)
        self.assertEqual(self.large(Range="bytes=100-")[:3:2], (200, DATA))
        self.fault(where="cdn", range_shift=7, times=1)
        status, headers, body, _ = self.large(Range="bytes=100-")
        self.assertEqual((status, body, headers["Content-Range"].split("-")[0]), (206, DATA[107:], "bytes 107"))
        self.fault(where="cdn", data_shift=7, times=1)
        status, headers, body, _ = self.large(Range="bytes=100-")
        self.assertEqual((body[:50], headers["Content-Range"].split("-")[0]), (DATA[107:157], "bytes 100"))
        self.fault(where="cdn", append="more", times=1)
        self.assertEqual(self.large()[2], DATA + b"more")
        self.fault(where="cdn", length=len(DATA) + 5, times=1, truncate_at=len(DATA))
        self.assertEqual(self.large()[2:], (DATA, False))
        self.fault(where="cdn", no_length=True, times=1)
        got = self.large()
        self.assertEqual((got[2], "Content-Length" in got[1]), (DATA, False))

    def test_statuses_and_headers(self):
        self.fault(path="*/config.json", status=429, headers={"Retry-After": "7"}, error_code="X", times=1)
        got = self.ask("/org/name/resolve/main/config.json")
        self.assertEqual((got[0], got[1]["Retry-After"], got[1]["X-Error-Code"]), (429, "7", "X"))
        self.fault(path="*/config.json", set={"X-Linked-Etag": "W/\"x\""}, unset=["X-Repo-Commit"], times=1)
        got = self.ask("/org/name/resolve/main/config.json")
        self.assertEqual((got[1]["X-Linked-Etag"], got[1]["X-Repo-Commit"]), ('W/"x"', None))
        self.fault(path="*/config.json", redirect="{hub}{target}", times=1)
        self.assertEqual(self.ask("/org/name/resolve/main/config.json")[1]["Location"], self.mock.hub + "/org/name/resolve/main/config.json")

    def test_time(self):
        self.fault(where="cdn", rate=20000, times=1)
        start = time.monotonic()
        self.assertEqual(self.large()[2], DATA)
        self.assertGreater(time.monotonic() - start, 0.4)
        self.fault(where="hub", delay=0.3, times=1)
        start = time.monotonic()
        self.ask("/org/name/resolve/main/config.json")
        self.assertGreater(time.monotonic() - start, 0.25)

    def test_rules_spare_and_end(self):
        self.fault(path="*/config.json", status=500, skip=1, times=2)
        self.assertEqual([self.ask("/org/name/resolve/main/config.json")[0] for _ in range(4)], [307, 500, 500, 307])
        self.mock.command({"op": "clear"})
        self.fault(where="cdn", ranged=True, status=500)
        self.assertEqual((self.large()[0], self.large(Range="bytes=1-")[0]), (200, 500))

    def test_moved_branch_in_the_middle(self):
        other = self.mock.command({"op": "commit", "repo": "org/name", "dir": str(self.files / "sub"), "branch": "other"})["commit"]
        self.fault(path="*/tree/*", then=[{"op": "move", "repo": "org/name", "branch": "main", "commit": other}], times=1)
        self.ask("/api/models/org/name/tree/main")
        self.assertEqual(json.loads(self.ask("/api/models/org/name/revision/main")[2])["sha"], other)

    def test_proxy_and_records(self):
        url = urlsplit(self.mock.proxy)
        connection = http.client.HTTPConnection(url.hostname, url.port)
        connection.request("GET", "http://hub.invalid/api/models/org/name/revision/main", headers={"Authorization": "Bearer x"})
        self.assertEqual(json.loads(connection.getresponse().read())["sha"], self.sha)
        connection.close()
        record = self.mock.command({"op": "requests"})["requests"][-1]
        self.assertEqual((record["where"], record["method"], record["status"], record["headers"]["authorization"]), ("proxy", "GET", 200, "Bearer x"))
        self.mock.command({"op": "clear"})
        self.assertEqual(self.mock.command({"op": "requests"})["requests"], [])


if __name__ == "__main__":
    unittest.main()
