"""What is measured: names of tests as llama-bench writes them, and how many tokens a shape may take of them.

    pp512          a prompt of 512 tokens
    tg128          128 tokens generated one by one
    tg128@d8192    the same with 8192 tokens in the cache before
    rows8          16 steps that generate for 8 sequences at once; tokens per second count all of them
"""
import re
from dataclasses import asdict, dataclass, replace

ROW_STEPS = 16
NAME = re.compile(r"(pp|tg|rows)([1-9]\d*)(?:@d(\d+))?")


@dataclass(frozen=True)
class Case:
    n_prompt: int = 0
    n_gen: int = 0
    depth: int = 0
    rows: int = 1

    @property
    def name(self):
        at = f"@d{self.depth}" if self.depth > 0 else ""
        if self.n_prompt > 0:
            return f"pp{self.n_prompt}{at}"
        return (f"rows{self.rows}" if self.rows > 1 else f"tg{self.n_gen}") + at

    def job(self):
        return {"name": self.name, **asdict(self)}


def parse(text):
    """The case that `text` names; ValueError if it names none."""
    match = NAME.fullmatch(text)
    if match is None:
        raise ValueError(f"[compare_peers] --tests: expected ppN, tgN or rowsN, each with @dN or without, got {text!r}")
    kind, number, depth = match[1], int(match[2]), int(match[3] or 0)
    if kind == "pp":
        return Case(n_prompt=number, depth=depth)
    if kind == "tg":
        return Case(n_gen=number, depth=depth)
    return Case(n_gen=ROW_STEPS, rows=number, depth=depth)


@dataclass(frozen=True)
class Limits:
    """The most of each that one measurement may take, so that a run stays within hours; 0 is none, as for `depth` and `rows`."""
    n_prompt: int
    n_gen: int
    depth: int
    rows: int = 1 << 30


# By shape, for the engines that are made for CPUs.
SHAPE_LIMITS = {"0.6b": Limits(32768, 128, 32768), "1.7b": Limits(16384, 64, 16384), "4b": Limits(4096, 48, 4096), "8b": Limits(2048, 32, 2048),
                "30b-a3b": Limits(512, 32, 2048)}


def within(case, limits):
    """`case` with no more tokens than `limits` allows, or None if it needs what they lack altogether."""
    if (case.depth > 0 and limits.depth == 0) or case.rows > limits.rows or (case.n_prompt > 0 and limits.n_prompt == 0):
        return None
    return replace(case, n_prompt=min(case.n_prompt, limits.n_prompt), n_gen=min(case.n_gen, limits.n_gen),
                   depth=min(case.depth, limits.depth))
