#!/usr/bin/env python3
"""The same products by other people's kernels, on the same card: cuBLAS on bf16 (torch's matmul), PyTorch's int4 kernels (tinygemm) and,
where it is installed, gemlite (Triton). Beside bench_cuda_products (few rows) and bench_cuda_prompts (many).

Usage: peer_products.py [--model 8b] [--rows 1,16,512,2048] [--group 64] [--peers cublas,tinygemm,gemlite]; needs torch with CUDA.
Weights of one product are copied as often as it takes that they come from memory and not from L2. Times are medians of replays of a CUDA
graph of as many calls as there are copies. GB/s counts the weights' codes, scales and zeros, once; TFLOP/s two operations a weight and row.
"""
import argparse
import statistics
import sys

import torch

# q+k+v, o, gate+up, down, head: [out, in] of Qwen3.
MODELS = {"8b": {"q k v": (6144, 4096), "o": (4096, 4096), "gate up": (24576, 4096), "down": (4096, 12288), "head": (151936, 4096)},
          "1.7b": {"q k v": (4096, 2048), "o": (2048, 2048), "gate up": (12288, 2048), "down": (2048, 6144), "head": (151936, 2048)}}
FAR = 256 << 20  # bytes: several times the L2 of any card


def copies(size):
    return max(1, -(-FAR // size))


class Cublas:
    name = "cuBLAS bf16"

    def __init__(self, out, inner, group):
        self.bytes = 2 * out * inner
        self.weights = [torch.randn(out, inner, dtype=torch.bfloat16, device="cuda") for _ in range(copies(self.bytes))]

    def call(self, x, i):
        return torch.nn.functional.linear(x, self.weights[i])


class Tinygemm:
    name = "tinygemm int4"

    def __init__(self, out, inner, group):
        self.bytes, self.group = out * inner // 2 + out * (inner // group) * 4, group
        codes = torch.randint(0, 256, (out, inner // 2), dtype=torch.uint8, device="cuda")
        scales = torch.rand(inner // group, out, 2, dtype=torch.bfloat16, device="cuda")
        packed = torch.ops.aten._convert_weight_to_int4pack(codes, 8)
        self.weights = [(packed.clone(), scales.clone()) for _ in range(copies(self.bytes))]

    def call(self, x, i):
        packed, scales = self.weights[i]
        return torch.ops.aten._weight_int4pack_mm(x, packed, self.group, scales)


class Gemlite:
    name = "gemlite A16W4"

    def __init__(self, out, inner, group):
        from gemlite.core import DType, GemLiteLinearTriton
        self.bytes = out * inner // 2 + out * (inner // group) * 4
        codes = torch.randint(0, 16, (out, inner), dtype=torch.uint8, device="cuda")
        scales = torch.rand(out, inner // group, dtype=torch.float16, device="cuda")
        zeros = torch.full((out, inner // group), 8.0, dtype=torch.float16, device="cuda")
        self.weights = []
        for _ in range(copies(self.bytes)):
            layer = GemLiteLinearTriton(4, group_size=group, in_features=inner, out_features=out, input_dtype=DType.FP16, output_dtype=DType.FP16)
            layer.pack(codes, scales, zeros, None)
            self.weights.append(layer)

    def call(self, x, i):
        return self.weights[i](x.half())


PEERS = {"cublas": Cublas, "tinygemm": Tinygemm, "gemlite": Gemlite}


def microseconds(weights, rows, inner, calls, rounds):
    x = torch.randn(rows, inner, dtype=torch.bfloat16, device="cuda")
    count = len(weights.weights)
    turn = max(count, calls)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(count):
            weights.call(x, i)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for i in range(turn):
                weights.call(x, i % count)
        times = []
        for _ in range(rounds + 1):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record(stream)
            graph.replay()
            end.record(stream)
            end.synchronize()
            times.append(1000 * start.elapsed_time(end) / turn)
    return statistics.median(times[1:])


def copy_rate():
    """Bytes read and written a second by a copy of device memory."""
    a = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    times = []
    for _ in range(11):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        b.copy_(a)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return 2 * a.numel() / (statistics.median(times[1:]) / 1000)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="8b")
    parser.add_argument("--rows", default="1,16,512,2048")
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--peers", default="cublas,tinygemm,gemlite")
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    copy = copy_rate()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {copy / 1e9:.0f} GB/s")
    print("peer            product   rows        us     GB/s  of copy   TFLOP/s")
    for name in chosen.peers.split(","):
        for product, (out, inner) in MODELS[chosen.model].items():
            try:
                weights = PEERS[name](out, inner, chosen.group)
                for rows in map(int, chosen.rows.split(",")):
                    if product == "head" and rows > 64:
                        continue  # a prompt takes the head for one row
                    us = microseconds(weights, rows, inner, 8, chosen.rounds)
                    rate = weights.bytes / us / 1e3
                    print(f"{weights.name:15s} {product:8s} {rows:5d} {us:9.1f} {rate:8.0f}   {100 * rate * 1e9 / copy:5.1f}%  "
                          f"{2e-6 * rows * out * inner / us:8.1f}", flush=True)
            except (ImportError, RuntimeError, ValueError) as error:
                print(f"{name} {product}: not measured: {str(error).splitlines()[0]}", flush=True)
                if isinstance(error, ImportError):
                    break
            weights = None
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
