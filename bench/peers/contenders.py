"""Who takes part: how each engine is installed, what file it reads, how one measurement of it is started and its answer read.
A new peer is a worker in `workers`, a class here and a line in `PEERS`."""
import json
import os
import subprocess
from pathlib import Path

from . import machine
from .cache import Absent, last_line
from .cases import SHAPE_LIMITS, Limits, within

WORKERS = Path(__file__).parent / "workers"
NATIVE, AVX2 = "native", "avx2"


class Failed(Exception):
    """Why one measurement gave no figure."""


class Contender:
    """One engine with one file and one set of kernels. `variant` tells several of one peer apart."""
    limits = None  # beyond those of the shape
    confined = False  # whether the process is held to as many processors as it may have threads: for engines without a setting
    note = ""

    def __init__(self, peer, variant="", isa=NATIVE, env=None):
        self.peer, self.variant, self.isa, self.env = peer, variant, isa, env or {}

    @property
    def title(self):
        return " ".join(filter(None, [self.peer, self.variant, self.isa if self.isa != NATIVE else ""]))

    def prepare(self, cache, shape):
        """Installs and writes what a measurement of `shape` needs; Absent if that fails."""
        raise NotImplementedError

    def command(self, shape, case, threads):
        raise NotImplementedError

    def environment(self, threads):
        return self.env

    def read(self, case, text):
        """The results in the standard output `text`: [{"test", "variant", "samples_ts"}], and facts about the engine."""
        raise NotImplementedError

    def case(self, shape, case):
        """What of `case` this engine runs, or None."""
        case = within(case, SHAPE_LIMITS[shape])
        return case if case is None or self.limits is None else within(case, self.limits)

    def measure(self, shape, case, threads, timeout):
        """Runs a process; returns (results, facts), or raises Failed."""
        confine = (lambda: os.sched_setaffinity(0, machine.cores_of(threads))) if self.confined else None
        try:
            done = subprocess.run(self.command(shape, case, threads), capture_output=True, text=True, errors="replace",
                                  timeout=timeout, stdin=subprocess.DEVNULL, preexec_fn=confine,
                                  env={**os.environ, **self.environment(threads)})
        except subprocess.TimeoutExpired as error:
            raise Failed(f"no answer within {timeout} s") from error
        except OSError as error:
            raise Failed(str(error)) from error
        if done.returncode != 0:
            raise Failed(f"exit status {done.returncode}: {last_line(done.stderr)}")
        try:
            results, facts = self.read(case, done.stdout)
            if not results or not all(result["samples_ts"] and min(result["samples_ts"]) > 0 for result in results):
                raise Failed("expected figures above zero, got " + last_line(done.stdout))
        except (ValueError, KeyError, TypeError) as error:
            raise Failed(f"expected a report in JSON, got {last_line(done.stdout)!r} ({error})") from error
        return results, facts


class Bumblebee(Contender):
    def __init__(self, binary, precision, group=64, **options):
        super().__init__("bumblebee", precision if group == 64 else f"{precision} g{group}", **options)
        self.binary, self.precision, self.group, self.models = Path(binary), precision, group, {}

    def prepare(self, cache, shape):
        if not os.access(self.binary, os.X_OK):
            raise Absent(f"{self.binary}: expected a program, built with tools/build.sh release; got none")
        verbs = subprocess.run([str(self.binary), "bench", "--help"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if verbs.returncode != 0:
            raise Absent(f"{self.binary} bench --help: expected exit status 0, got {verbs.returncode}: {last_line(verbs.stderr)}")
        self.models[shape] = cache.mlx(shape, self.group)

    def command(self, shape, case, threads):
        return [str(self.binary), "bench", "-m", str(self.models[shape]), "-p", str(case.n_prompt), "-n", str(case.n_gen),
                "-d", str(case.depth), "-t", str(threads), "--rows", str(case.rows), "-r", "1", "--precision", self.precision,
                "-o", "json"]

    def read(self, case, text):
        wanted = (case.n_prompt, case.n_gen, case.depth, case.rows)
        rows = [row for row in json.loads(text) if tuple(row[name] for name in ("n_prompt", "n_gen", "n_depth", "rows")) == wanted]
        results = [{"test": case.name, "variant": "", "samples_ts": row["samples_ts"], "weight_bytes": row["weight_bytes"],
                    "bandwidth_share": row["bandwidth_share"]} for row in rows]
        facts = {name: row[name] for row in rows for name in ("build", "instruction_set")}
        return results, facts


class Peer(Contender):
    """An engine that a worker drives in an environment of its own."""
    packages, worker = (), ""
    flags, build_env = (), None

    def __init__(self, peer, variant="", isa=NATIVE, options=None):
        super().__init__(peer, variant, isa)
        self.python, self.models, self.options = None, {}, options or {}

    def venv_name(self):
        return self.peer

    def model(self, cache, shape):
        return cache.gguf(shape, "Q4_0")

    def prepare(self, cache, shape):
        self.python = cache.venv(self.venv_name(), self.packages, self.flags, self.build_env)
        self.models[shape] = self.model(cache, shape)

    def command(self, shape, case, threads):
        job = {"model": str(self.models[shape]), "threads": threads, "cases": [case.job()], **self.options}
        return [str(self.python), str(WORKERS / self.worker), json.dumps(job)]

    def read(self, case, text):
        answer = json.loads(text)
        return answer["results"], answer["facts"]


class LlamaCpp(Peer):
    packages, worker = ("llama-cpp-python",), "measure_llama_cpp.py"
    # pip keeps wheels that it built, whatever they were built with: the two builds must not share one.
    flags = ("--no-binary", "llama-cpp-python", "--no-cache-dir")
    CMAKE = {NATIVE: "-DGGML_NATIVE=ON",
             AVX2: "-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=OFF"}

    @property
    def build_env(self):
        return {"CMAKE_ARGS": self.CMAKE[self.isa] + " -DLLAVA_BUILD=OFF"}

    def venv_name(self):
        return f"llama.cpp-{self.isa}"

    def model(self, cache, shape):
        return cache.gguf(shape, self.variant)


class MlxLm(Peer):
    packages, worker = ("mlx-lm[cpu]",), "measure_mlx_lm.py"
    limits, confined = Limits(16, 2, 0, 8), True
    note = "mlx-lm: MLX's CPU backend takes about as long for each token of a prompt as for a generated one, so it is given few " \
           "tokens, and nothing at depth; held to as many processors as threads, since it has no setting"

    def model(self, cache, shape):
        return cache.mlx(shape)


class MistralRs(Peer):
    packages, worker = ("mistralrs",), "measure_mistralrs.py"
    flags = ("--only-binary", "mistralrs")
    limits, confined = Limits(128, 16, 0, 1), True
    note = "mistralrs: rates as it reports them, of one sequence, without depth; held to as many processors as threads"

    def environment(self, threads):
        return {"RAYON_NUM_THREADS": str(threads)}


class OpenVinoGenAi(Peer):
    packages, worker = ("openvino-genai",), "measure_openvino_genai.py"
    limits = Limits(8192, 128, 8192, 1)
    note = "openvino-genai: reads the Q4_0 file and converts it on loading; rates from its own counters, of one sequence"


PEERS = {
    "llama.cpp": lambda kinds, flash: [LlamaCpp("llama.cpp", kind, options={"flash_attention": flash}) for kind in kinds],
    "mlx-lm": lambda kinds, flash: [MlxLm("mlx-lm")],
    "mistralrs": lambda kinds, flash: [MistralRs("mistralrs")],
    "openvino-genai": lambda kinds, flash: [OpenVinoGenAi("openvino-genai")],
}


def all_of(peers, binary, precisions, kinds, flash, avx2, groups=(64,)):
    """Ours first, then the peers in the order of their names; with `avx2`, those that can be held to AVX2 once more."""
    out = [Bumblebee(binary, precision, group) for precision in precisions for group in groups]
    out += [contender for peer in peers for contender in PEERS[peer](kinds, flash)]
    if avx2:
        out += [Bumblebee(binary, precision, group, isa=AVX2, env={"BB_CPU": "avx2"}) for precision in precisions for group in groups]
        if "llama.cpp" in peers:
            out += [LlamaCpp("llama.cpp", kind, AVX2, {"flash_attention": flash}) for kind in kinds]
    return out
