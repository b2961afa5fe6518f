"""Times PyTorch's CUDA kernels on the cases of examples/roofline/cases.rs.

    python3 benches/pytorch_cuda.py OUT.json

Needs torch with CUDA. Calls aten operators, several of them replayed from a CUDA graph so that no launch from the host
is timed; medians, and a copy of the same tensor beside them, as in docs/performance.md.
"""

import json
import sys

import torch

aten = torch.ops.aten
device = torch.device("cuda")
SHORT = {torch.float32: "", torch.float16: " f16", torch.bfloat16: " bf16"}
rows = []


def median(call, repeats=7):
    """Microseconds of a call."""
    for _ in range(3):
        call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    calls = max(2, min(50, int(20 / max(start.elapsed_time(end), 0.01))))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    for _ in range(3):
        graph.replay()
    times = []
    for _ in range(repeats):
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / calls * 1e3)
    return sorted(times)[len(times) // 2]


def time(name, op, call, copy):
    us = median(call)
    rows.append({"case": name, "op": op, "us": us, "copy_us": copy})
    print(f"{name:44} {op:16} {us:9.2f} us  {us / copy:6.2f} copies ({copy:.2f} us)", flush=True)


def copy_of(x):
    out = torch.empty_like(x)
    return median(lambda: out.copy_(x))


def batch(shape, dtype=torch.float32, channels_last=False):
    x = torch.rand(shape, device=device, dtype=dtype) * 5 - 2
    dy = torch.rand(shape, device=device, dtype=dtype) * 2 - 1
    if channels_last:
        x, dy = (t.contiguous(memory_format=torch.channels_last) for t in (x, dy))
    w, b, mean, var = (torch.rand(shape[1], device=device) + 0.5 for _ in range(4))
    name = "BatchNorm " + "x".join(map(str, shape)) + SHORT[dtype] + (" channels-last" if channels_last else "")
    copy = copy_of(x)

    def native(training):
        return aten.native_batch_norm(x, w, b, mean, var, training, 0.1, 1e-5)

    _, m, i = native(True)
    time(name, "train native", lambda: native(True), copy)
    time(name, "eval native", lambda: native(False), copy)
    mask = [True] * 3
    time(
        name,
        "backward native",
        lambda: aten.native_batch_norm_backward(dy, x, w, mean, var, m, i, True, 1e-5, mask),
        copy,
    )
    if dtype == torch.bfloat16:
        return  # cuDNN wants weights of the same type
    _, m, i, reserve = aten.cudnn_batch_norm(x, w, b, mean, var, True, 0.1, 1e-5)
    time(name, "train cudnn", lambda: aten.cudnn_batch_norm(x, w, b, mean, var, True, 0.1, 1e-5), copy)
    time(
        name,
        "backward cudnn",
        lambda: aten.cudnn_batch_norm_backward(x, dy, w, mean, var, m, i, 1e-5, reserve),
        copy,
    )


def rows_of(m, n):
    x, dy = (torch.rand(m, n, device=device) for _ in range(2))
    w, b = (torch.rand(n, device=device) for _ in range(2))
    copy = copy_of(x)
    _, mean, rstd = aten.native_layer_norm(x, [n], w, b, 1e-5)
    name = f"LayerNorm {m}x{n}"
    time(name, "train native", lambda: aten.native_layer_norm(x, [n], w, b, 1e-5), copy)
    backward = aten.native_layer_norm_backward
    time(name, "backward native", lambda: backward(dy, x, [n], mean, rstd, w, b, [True] * 3), copy)
    _, rstd = aten._fused_rms_norm(x, [n], w, 1e-5)
    name = f"RMSNorm {m}x{n}"
    time(name, "train native", lambda: aten._fused_rms_norm(x, [n], w, 1e-5), copy)
    backward_rms = aten._fused_rms_norm_backward
    time(name, "backward native", lambda: backward_rms(dy, x, [n], rstd, w, [True] * 2), copy)


def group(groups, shape):
    n, c, h, width = shape
    x, dy = (torch.rand(shape, device=device) for _ in range(2))
    w, b = (torch.rand(c, device=device) for _ in range(2))
    copy = copy_of(x)
    sizes = (n, c, h * width, groups)
    _, mean, rstd = aten.native_group_norm(x, w, b, *sizes, 1e-5)
    name = "GroupNorm " + "x".join(map(str, shape))
    time(name, "train native", lambda: aten.native_group_norm(x, w, b, *sizes, 1e-5), copy)
    backward = aten.native_group_norm_backward
    time(name, "backward native", lambda: backward(dy, x, mean, rstd, w, *sizes, [True] * 3), copy)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(torch.__version__, torch.backends.cudnn.version(), torch.cuda.get_device_name())
    large = [(64, 64, 28, 28), (32, 256, 56, 56), (32, 512, 28, 28), (32, 1024, 14, 14), (32, 2048, 7, 7)]
    for shape in [*large, (32, 64, 112, 112), (4, 64, 28, 28), (64, 32)]:
        batch(shape)
    rows_of(8192, 768)
    group(32, (2, 256, 100, 152))
    shape = (32, 512, 28, 28)
    batch(shape, torch.float16)
    batch(shape, torch.bfloat16)
    batch(shape, channels_last=True)
    batch(shape, torch.float16, channels_last=True)
    with open(sys.argv[1], "w") as file:
        json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
