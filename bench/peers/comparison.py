"""Runs the contenders in turns, one process per measurement, and gathers what they say."""
import json
import os
import shlex
import subprocess
from pathlib import Path

from . import report
from .cache import Absent
from .contenders import Failed


def read_bandwidth(binary, threads):
    """Bytes per second of a plain parallel read, as `bumblebee doctor` measures it; None without the program."""
    try:
        done = subprocess.run([str(binary), "doctor", "--json", "-t", str(threads)], capture_output=True, text=True, timeout=120,
                              stdin=subprocess.DEVNULL)
        return json.loads(done.stdout)["memory_bandwidth_bytes_per_s"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return None


class Comparison:
    def __init__(self, contenders, cache, say, rounds, timeout, bandwidth):
        self.contenders, self.cache, self.say = contenders, cache, say
        self.rounds, self.timeout, self.bandwidth = rounds, timeout, bandwidth
        self.records, self.reads, self.notes, self.commands = [], [], [], {}
        self.facts, self.absent, self.gone = {}, {}, set()

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)

    def ready(self, shape):
        """The contenders that can measure `shape`; the others are noted with the reason."""
        out = []
        for contender in self.contenders:
            if contender in self.gone:
                continue
            try:
                contender.prepare(self.cache, shape)
                out.append(contender)
            except Absent as reason:
                self.say(f"{contender.title}: {reason}")
                self.absent[contender.title] = str(reason)
                self.gone.add(contender)
        return out

    def once(self, contender, shape, wanted, case, threads, number):
        command = contender.command(shape, case, threads)
        settings = [f"{name}={value}" for name, value in contender.environment(threads).items()]
        self.commands.setdefault((contender.title, shape), shlex.join(settings + command))
        try:
            results, facts = contender.measure(shape, case, threads, self.timeout)
        except Failed as reason:
            self.say(f"{contender.title} {shape} {case.name}: {reason}")
            self.note(f"{contender.title}, {shape}, {case.name}, {threads} threads: no figure: {reason}")
            return False
        self.facts[contender.title] = facts
        for result in results:
            variant = " ".join(filter(None, [contender.variant, result["variant"]]))
            self.records.append({**result, "shape": shape, "threads": threads, "isa": contender.isa, "wanted": wanted.name,
                                 "peer": contender.peer, "variant": variant, "round": number})
            self.say(f"round {number}  {shape}  {threads} threads  {result['test']}  {contender.peer} {variant}: "
                     f"{result['samples_ts'][0]:.2f} tok/s")
        return True

    def case(self, contenders, shape, wanted, threads):
        """All rounds of one case: every contender once, then every contender again."""
        failed = set()
        for number in range(1, self.rounds + 1):
            read = self.bandwidth(threads)
            if read:
                self.reads.append({"threads": threads, "shape": shape, "test": wanted.name, "round": number, "bytes_per_s": read})
            for contender in contenders:
                case = contender.case(shape, wanted)
                if case is None:
                    self.note(f"{contender.title}, {wanted.name}: not measured, beyond what this peer is given: {contender.note}")
                elif contender not in failed and not self.once(contender, shape, wanted, case, threads, number):
                    failed.add(contender)  # what fails once would fail, or wait for its time limit, in every round

    def run(self, shapes, cases, threads):
        try:
            for shape in shapes:
                contenders = self.ready(shape)
                for count in threads:
                    for wanted in cases:
                        self.case(contenders, shape, wanted, count)
        finally:  # an interrupted run accounts for everyone too
            self.account()

    def account(self):
        for contender in self.contenders:
            if contender.note and contender.title in self.facts:
                self.note(contender.note)
            if contender not in self.gone and contender.title not in self.facts:
                self.absent[contender.title] = "no measurement of it succeeded or was asked for; see the notes"

    def result(self, machine, command):
        """Everything, as a dictionary that `-o json` prints; paths of the cache and of the home are not given away."""
        summary = report.summarize(self.records)
        reads = {count: report.summary([read["bytes_per_s"] for read in self.reads if read["threads"] == count])
                 for count in dict.fromkeys(read["threads"] for read in self.reads)}
        out = {"machine": machine, "command": command, "comparison": report.compare(summary), "summary": summary,
               "bandwidth": reads, "facts": self.facts, "absent": self.absent, "notes": self.notes,
               "commands": list(self.commands.values()), "records": self.records, "reads": self.reads}
        return hide(out, {str(self.cache.root): "$BB_CACHE", os.getcwd() + "/": "", str(Path.home()): "~"})


def hide(value, names):
    """`value` with the private paths in its strings replaced."""
    if isinstance(value, str):
        for path, name in names.items():
            value = value.replace(path, name)
        return value
    if isinstance(value, dict):
        return {key: hide(one, names) for key, one in value.items()}
    return [hide(one, names) for one in value] if isinstance(value, list) else value
