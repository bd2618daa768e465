"""Who takes part on a card. As contenders.py; each is given as many tokens as are asked for."""
import json
import os
import subprocess

from . import llama_cpp
from .cases import Limits, within
from .contenders import Bumblebee, Contender, MlxLm

LIMITS = Limits(32768, 512, 32768)


class OnCard(Contender):
    def case(self, _, case):
        return within(case, LIMITS)


class BumblebeeCuda(OnCard, Bumblebee):
    def command(self, shape, case, threads):
        return [*super().command(shape, case, threads), "--device", "cuda"]


class LlamaCppCuda(OnCard):
    """llama-bench for one sequence, llama-batched-bench for several."""
    FLAGS = ("-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=native", "-DLLAMA_BUILD_SERVER=OFF")

    def __init__(self, kind):
        super().__init__("llama.cpp", kind)
        self.programs, self.models = None, {}

    def prepare(self, cache, shape):
        self.programs = llama_cpp.build(cache, "llama.cpp-cuda", ["llama-bench", "llama-batched-bench"], self.FLAGS)
        self.models[shape] = cache.gguf(shape, self.variant)

    def command(self, shape, case, threads):
        model = ["-m", str(self.models[shape]), "-ngl", "99", "-t", str(threads)]
        if case.rows == 1:
            return [str(self.programs / "llama-bench"), *model, "-fa", "1", "-p", str(case.n_prompt), "-n", str(case.n_gen), "-d",
                    str(case.depth), "-r", "1", "-o", "json"]
        before = max(case.depth, 1)
        return [str(self.programs / "llama-batched-bench"), *model, "-fa", "on", "-npp", str(before), "-ntg", str(case.n_gen), "-npl",
                str(case.rows), "-c", str(case.rows * (before + case.n_gen + 64)), "--output-format", "jsonl"]

    def read(self, case, text):
        if case.rows == 1:
            [row] = json.loads(text)
            facts = {"build": row["build_commit"], "card": row["gpu_info"]}
            samples = row["samples_ts"]
        else:
            [row] = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
            facts, samples = {}, [row["speed_tg"]]
        facts["sources"] = llama_cpp.sources_of(self.programs)
        return [{"test": case.name, "variant": "", "samples_ts": samples}], facts


class MlxLmCuda(OnCard, MlxLm):
    packages = ("mlx-lm", "mlx[cuda13]")
    confined, note = False, ""

    def venv_name(self):
        return "mlx-lm-cuda"


PEERS = {"llama.cpp": lambda: LlamaCppCuda("Q4_0"), "mlx-lm": lambda: MlxLmCuda("mlx-lm", options={"device": "gpu"})}


def all_of(peers, binary, precisions):
    """Ours first, then those of `peers` that know cards."""
    return [BumblebeeCuda(binary, precision) for precision in precisions] + [PEERS[peer]() for peer in peers if peer in PEERS]


def card():
    """What the driver says of the cards, or nothing."""
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=60, env=os.environ)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(done.stdout.split("\n")[:-1]) if done.returncode == 0 else ""
