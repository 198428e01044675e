"""The kernels are what Triton's compiler takes: its interpreter is more lenient, and needs no GPU
either."""

import importlib.util
import os
import subprocess
import sys

import pytest

CODE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pharos.ops.paged_attention import triton_kernels as kernels

sizes = kernels.Sizes(*["i32"] * 6, "fp32")
parts, tables = kernels.Parts(*["*fp32"] * 3), kernels.Tables("*i32", "*i32", "i32")
bias = kernels.Bias("*fp32", "i32", "i32")


def compile(kernel, **arguments):
    fixed = {(i,): value for i, value in enumerate(arguments.values()) if not is_type(value)}
    types = {name: x if is_type(x) else "constexpr" for name, x in arguments.items()}
    triton.compile(ASTSource(kernel, types, fixed), target=GPUTarget("cuda", 90, 32))


def is_type(value):
    return isinstance(value, tuple) or (isinstance(value, str) and value != "tf32x3")


for dtype, split, width, with_bias in (
    ("*bf16", 256, 64, None), ("*fp16", 0, 128, None), ("*fp32", 256, 32, bias)
):
    compile(
        kernels.attend_kernel, q=dtype, k=dtype, v=dtype, out=dtype,
        parts=parts if split else None, sizes=sizes, tables=tables, bias=with_bias,
        X=16 if split else 64, C=64, W=width, SPLIT=split, BLOCK=16, DOT="tf32x3",
    )
compile(
    kernels.combine_kernel, out="*bf16", parts=parts, sizes=sizes, tables=tables,
    num_splits="i32", X=16, W=64, SPLIT=256,
)
print("compiled")
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_the_kernels_compile_for_a_gpu_that_is_not_there() -> None:
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("compiled\n")
