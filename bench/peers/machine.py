"""What the figures were measured on."""
import os
import platform
import re
from datetime import datetime, timezone
from pathlib import Path

# Instruction sets that kernels of matrix products choose by, as /proc/cpuinfo writes them on x86 and ARM.
SETS = ("avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
        "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2")


def field(text, *names):
    for name in names:
        match = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
        if match:
            return match[1].strip()
    return ""


def describe(cpuinfo, meminfo="", cores=0):
    """The machine as a dictionary, from the texts of /proc/cpuinfo and /proc/meminfo."""
    flags = set(field(cpuinfo, "flags", "Features").split())
    memory = field(meminfo, "MemTotal")
    return {"cpu": field(cpuinfo, "model name", "CPU part") or platform.machine(), "cores": cores,
            "instruction_sets": [name for name in SETS if name in flags],
            "memory_gib": round(int(memory.split()[0]) / (1 << 20), 1) if memory else None}


def this_machine():
    out = describe(Path("/proc/cpuinfo").read_text(), Path("/proc/meminfo").read_text(), len(os.sched_getaffinity(0)))
    out["system"] = f"{platform.system()} {platform.release()}"
    out["load_at_start"] = round(os.getloadavg()[0], 2)
    out["date"] = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return out


def has_more_than_avx2(machine):
    return any(name.startswith(("avx512", "avx_vnni", "amx")) for name in machine["instruction_sets"])


def cores_of(count):
    """`count` processors to confine a process to, each on a core of its own as long as there are enough."""
    allowed, first, second = sorted(os.sched_getaffinity(0)), [], []
    for cpu in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        leader = int(re.match(r"\d+", path.read_text())[0]) if path.exists() else cpu
        (first if leader == cpu or leader not in allowed else second).append(cpu)
    return set((first + second)[:count])
