# Runs every benchmark of bench_ops once, at small sizes, and checks that each reports what docs/internals/performance.md promises.
# Usage: bench_ops_test.py BENCH_OPS.
import json
import math
import subprocess
import sys

OPERATIONS = {"sampler", "matmul", "attend_decode", "attend_prefill", "append_kv", "delta_rule", "lora", "rms_norm", "add_rms_norm", "add", "rope", "norm_rope", "glu",
              "embed", "gather_rows", "train_matmul", "matmul_dx", "head_loss", "attend_packed", "attend_packed_dqkv", "gemm", "rms_norm_dx",
              "norm_rope_dx", "glu_dx", "dropout", "schedule"}
WITH_ARITHMETIC = {"matmul", "attend_decode", "attend_prefill", "lora", "train_matmul", "matmul_dx", "head_loss", "attend_packed",
                   "attend_packed_dqkv", "gemm"}


def positive(value):
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def failures(output):
    context, benchmarks = output["context"], output["benchmarks"]
    if context["sizes"] != "small":
        yield f"sizes: expected small, got {context['sizes']}"
    for limit in ("read_bandwidth_gb_per_s", "peak_f32_gops", "peak_bf16_gops", "peak_int8_gops"):
        if not positive(float(context[limit])):
            yield f"{limit}: expected a positive number, got {context[limit]}"
    names = [benchmark["name"].removesuffix("/real_time") for benchmark in benchmarks]
    if len(set(names)) != len(names):
        yield "a name stands there twice"
    found = {name.split("/")[0] for name in names}
    if found != OPERATIONS:
        yield f"operations: expected {sorted(OPERATIONS)}, got {sorted(found)}"
    for bits in (2, 3, 4, 5, 6, 8):
        for group in (32, 64, 128):
            for rows in (1, 2, 4, 8, 16, 64, 512):
                for precision in ("exact", "fast"):
                    wanted = f"matmul/b{bits}_g{group}/rows{rows}/{precision}"
                    if wanted not in names:
                        yield f"{wanted}: expected a measurement, got none"
    for name, benchmark in zip(names, benchmarks):
        if benchmark.get("error_occurred"):
            yield f"{name}: {benchmark.get('error_message')}"
        # Planning a step reads no weights: its time is all there is to say.
        counters = [] if name.startswith("schedule/") else ["bytes_per_second", "of_read_bandwidth"]
        if name.split("/")[0] in WITH_ARITHMETIC:
            counters += ["ops_per_second", "of_peak"]
        for counter in counters:
            if not positive(benchmark.get(counter)):
                yield f"{name}: {counter}: expected a positive number, got {benchmark.get(counter)}"


def main():
    command = [sys.argv[1], "--small", "--benchmark_min_time=0.0001", "--benchmark_format=json"]
    output = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    found = list(failures(output))
    for failure in found:
        print(failure)
    print(f"{len(output['benchmarks'])} benchmarks, {len(found)} failures")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
