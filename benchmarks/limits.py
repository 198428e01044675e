"""What a processor could do with the weights of a model, if nothing else took time."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.hardware import memory_bandwidth


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """`bandwidth` is in bytes a second, `operations` are those of matrix products a second, in
    eight bits and in bfloat16."""

    bandwidth: float
    operations: dict[int, float]


def machine_of(shape: dict[str, Any]) -> Machine:
    """Measured with matrices of a model's shape."""
    inner, outer = shape["hidden_size"], shape["intermediate_size"]
    kinds = {8: torch.int8, 16: torch.bfloat16}
    operations = {bits: product_speed(dtype, inner, outer) for bits, dtype in kinds.items()}
    return Machine(bandwidth=memory_bandwidth(), operations=operations)


def product_speed(dtype: torch.dtype, inner: int, outer: int, rows: int = 1024) -> float:
    """Operations a second, at best."""
    multiply = torch._int_mm if dtype == torch.int8 else torch.mm
    left_RI = torch.ones(rows, inner).to(dtype)
    right_IO = torch.ones(outer, inner).to(dtype).t()
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        multiply(left_RI, right_IO)
        seconds.append(time.perf_counter() - started)
    return 2.0 * rows * inner * outer / min(seconds)


def prefill_s(
    shape: dict[str, Any], machine: Machine, *, bits: float, num_tokens: int, num_prompts: int
) -> float:
    """To multiply the weights with so many tokens. A prompt needs the head for its last one."""
    head, body = sizes_of(shape)
    return 2.0 * (num_tokens * body + num_prompts * head) / machine.operations[_multiplied(bits)]


def step_s(shape: dict[str, Any], machine: Machine, *, bits: float, batch: int) -> float:
    """To read the weights once, and to multiply them with a token of each of a batch: whichever
    takes longer."""
    num_weights = sum(sizes_of(shape))
    multiplying_s = 2.0 * batch * num_weights / machine.operations[_multiplied(bits)]
    return max(num_weights * bits / 8 / machine.bandwidth, multiplying_s)


def sizes_of(shape: dict[str, Any]) -> tuple[int, int]:
    """Weights of the head, and of all that a token is multiplied with before it."""
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    kept = hidden // heads * shape["num_key_value_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * kept + 3 * hidden * shape["intermediate_size"]
    return hidden * shape["vocab_size"], layer * shape["num_hidden_layers"]


def _multiplied(bits: float) -> int:
    """Q8_0 has 8.5 bits with its scales."""
    return 8 if bits < 16.0 else 16
