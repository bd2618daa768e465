# Proves that tools/compare_bench.py compares shares and not speeds, tells slower from equal, and refuses what cannot be compared.
import contextlib
import io
import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools"))
import compare_bench  # noqa: E402


def row(**changes):
    """A row of bumblebee bench: generation that reads 1 GB per token at half of 20 GB/s."""
    values = {"model": "m", "test": "tg128", "rows": 1, "backend": "cpu", "precision": "exact", "kv_type": "f32", "threads": 2,
              "instruction_set": "avx2", "avg_ts": 10.0, "median_ts": 10.0, "samples_ts": [10.0], "weight_bytes": 10**9,
              "kv_bytes": 0.0, "read_bandwidth": 20e9, "bandwidth_share": 0.5, "load_s": None, "first_token_s": None,
              "build": "0.1.0", "cpu": "x", "date": "2026-01-01T00:00:00Z"}
    values.update(changes)
    return values


def prompt(**changes):
    return row(**{"test": "pp512", "bandwidth_share": None, "kv_bytes": None, "median_ts": 100.0, **changes})


def load_row(**changes):
    return row(**{"test": "load", "bandwidth_share": None, "median_ts": None, "load_s": 0.1, "first_token_s": 0.2, **changes})


def operations(benchmarks, **context):
    return {"context": {"host_name": "h", "executable": "/somewhere/bench_ops", "sizes": "full", "instruction_set": "avx2", **context},
            "benchmarks": benchmarks}


def operation(name, **counters):
    return {"name": name, "run_name": name, "run_type": "iteration", "real_time": 1.0, "time_unit": "ns", **counters}


class CompareBenchTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def write(self, name, content):
        path = os.path.join(self.folder.name, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(content if isinstance(content, str) else json.dumps(content))
        return path

    def run_tool(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = compare_bench.main(list(arguments))
        return status, out.getvalue(), err.getvalue()

    def compare(self, baseline, new, *flags):
        return self.run_tool(self.write("baseline", baseline), self.write("new", new), *flags)

    def test_equal_files_pass(self):
        status, out, _ = self.compare([row(), prompt(), load_row()], [row(), prompt(), load_row()])
        self.assertEqual(0, status)
        self.assertIn("3 compared, 0 slower", out)
        self.assertNotIn("SLOWER", out)

    def test_a_slower_machine_is_not_a_slower_program(self):
        half = {"read_bandwidth": 10e9}
        status, out, _ = self.compare(
            [row(), prompt(), load_row()],
            [row(median_ts=5.0, **half), prompt(median_ts=50.0, **half), load_row(first_token_s=0.4, **half)])
        self.assertEqual(0, status, out)

    def test_a_smaller_share_is_slower(self):
        for old, new in [(row(), row(bandwidth_share=0.4)), (prompt(), prompt(median_ts=80.0)),
                         (load_row(), load_row(first_token_s=0.3))]:
            status, out, _ = self.compare([old], [new])
            self.assertEqual(1, status, out)
            self.assertIn("SLOWER", out)
            self.assertIn("1 slower", out)

    def test_the_same_speed_on_a_faster_machine_is_slower(self):
        status, _, _ = self.compare([prompt()], [prompt(read_bandwidth=40e9)])
        self.assertEqual(1, status)

    def test_the_tolerance_decides(self):
        new = [row(bandwidth_share=0.46)]
        self.assertEqual(0, self.compare([row()], new)[0])
        self.assertEqual(1, self.compare([row()], new, "--tolerance", "0.05")[0])
        self.assertEqual(0, self.compare([row()], [row(bandwidth_share=0.3)], "--tolerance", "0.5")[0])

    def test_faster_is_told_and_passes(self):
        status, out, _ = self.compare([row()], [row(bandwidth_share=0.9)])
        self.assertEqual(0, status)
        self.assertIn("faster", out)

    def test_what_only_one_file_has_is_listed(self):
        status, out, _ = self.compare([row(), prompt()], [row(), row(rows=4)])
        self.assertEqual(0, status)
        self.assertIn("1 compared", out)
        self.assertIn("m pp512 1", out)
        self.assertIn("m tg128 4", out)

    def test_another_instruction_set_is_noted(self):
        self.assertIn("note: other instruction sets", self.compare([row()], [row(instruction_set="neon")])[1])
        self.assertNotIn("note:", self.compare([row()], [row()])[1])

    def test_operations_are_compared_by_the_nearer_limit(self):
        old = operations([operation("a", of_read_bandwidth=0.9, of_peak=0.1), operation("b", of_read_bandwidth=0.1, of_peak=0.8)])
        peak_fell = operations([operation("a", of_read_bandwidth=0.9, of_peak=0.01), operation("b", of_read_bandwidth=0.1, of_peak=0.8)])
        status, out, _ = self.compare(old, peak_fell)
        self.assertEqual(0, status, out)
        read_fell = operations([operation("a", of_read_bandwidth=0.5, of_peak=0.1), operation("b", of_read_bandwidth=0.1, of_peak=0.8)])
        status, out, _ = self.compare(old, read_fell)
        self.assertEqual(1, status, out)

    def test_medians_of_repetitions_count(self):
        def repeated(median):
            entries = [operation("a_mean", of_peak=0.1), operation("a_median", of_peak=median)]
            for entry, kind in zip(entries, ["mean", "median"]):
                entry.update(run_name="a", aggregate_name=kind, run_type="aggregate")
            return operations(entries)
        self.assertEqual(0, self.compare(repeated(0.5), repeated(0.5))[0])
        self.assertEqual(1, self.compare(repeated(0.5), repeated(0.3))[0])

    def test_unusable_inputs_are_2(self):
        good = operations([operation("a", of_peak=0.5)])
        unusable = [
            ("not json", [row()], "expected JSON"),
            ({"x": 1}, [row()], "got something else"),
            ([], [row()], "at least one measurement"),
            ([1], [row()], "expected an object"),
            ([{"model": "m"}], [row()], "test: expected a value"),
            ([row(), row()], [row()], "stands there twice"),
            ([row(read_bandwidth=None)], [row()], "expected a positive number, got None"),
            ([row(bandwidth_share=0)], [row()], "expected a positive number, got 0"),
            ([row(bandwidth_share="0.5")], [row()], "expected a positive number, got '0.5'"),
            ([row()], [row(bandwidth_share=-1)], "got -1"),
            ([row()], [row(bandwidth_share=float("nan"))], "got nan"),
            ([row()], good, "expected the output of bumblebee bench"),
            ([row()], [row(model="other")], "expected a test that"),
            (good, operations([operation("a", of_peak=0.5)], sizes="small"), "expected full, got small"),
            (good, operations([operation("a")]), "expected one of of_peak"),
            (good, operations([operation("a", error_occurred=True, error_message="boom", of_peak=1.0)]), "boom"),
            (good, operations([operation("a", of_peak=0.5), operation("a", of_peak=0.5)]), "stands there twice"),
            (good, {"context": {"sizes": "full"}, "benchmarks": {}}, "expected an array"),
            (good, {"benchmarks": []}, "context: expected a value"),
            (good, operations([operation("a", of_read_bandwidth=0.5)]), "a measure that both files have"),
        ]
        for baseline, new, message in unusable:
            status, _, err = self.compare(baseline, new)
            self.assertEqual(2, status, message)
            self.assertIn(message, err)
        self.assertEqual(2, self.run_tool(os.path.join(self.folder.name, "absent"), self.write("b", [row()]))[0])

    def test_bad_flags_are_2(self):
        for tolerance in ["1", "-0.1", "nan", "x"]:
            with self.assertRaises(SystemExit) as ended:
                self.compare([row()], [row()], "--tolerance", tolerance)
            self.assertEqual(2, ended.exception.code)

    def test_a_recorded_baseline_compares_and_names_no_machine(self):
        outputs = [[row(), prompt(), load_row()], operations([operation("a", of_peak=0.5, of_read_bandwidth=0.1)])]
        for output in outputs:
            source, baseline = self.write("output", output), os.path.join(self.folder.name, "recorded")
            self.assertEqual(0, self.run_tool("--record", source, baseline)[0])
            with open(baseline, encoding="utf-8") as file:
                text = file.read()
            self.assertNotIn("host_name", text)
            self.assertNotIn("/somewhere", text)
            self.assertEqual(0, self.run_tool(baseline, source)[0])
        self.assertEqual(2, self.run_tool("--record", self.write("output", {"benchmarks": [{}]}), os.path.join(self.folder.name, "none"))[0])
        self.assertFalse(os.path.exists(os.path.join(self.folder.name, "none")))

    def test_the_stored_baselines_can_be_compared(self):
        folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench", "baseline")
        stored = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".json")]
        self.assertTrue(stored)
        for path in stored:
            status, out, err = self.run_tool(path, path)
            self.assertEqual(0, status, out + err)


if __name__ == "__main__":
    unittest.main()
