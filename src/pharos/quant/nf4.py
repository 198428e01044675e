"""NF4 linears swapped in from outside: the frozen base of QLoRA, at 4.13 bits a weight.

    convert_nf4(model)
    adapters = Adapters(model)          # pharos.adapt: LoRA on top

What is computed between the linears, and in them, has the type of the activations (bfloat16 under
autocast): the weight is made again from its four bits wherever it is multiplied, in the backward
pass too. The names and the layout in a state dict are those of bitsandbytes.

Shapes: N rows, I inputs, O outputs.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from pharos.core.errors import ModelError
from pharos.ops.frozen_linear import compute_dtype, frozen_linear
from pharos.ops.nf4 import (
    BLOCK,
    GROUP,
    Magnitudes,
    byte_codes,
    dequantize_magnitudes,
    dequantize_nf4,
    nf4_codes,
    quantize_magnitudes,
    quantize_nf4,
)

M = TypeVar("M", bound=nn.Module)
STATE = "weight.quant_state.bitsandbytes__nf4"
SKIPPED = ("router",)
"""Small linears whose rounding would be felt: they choose between experts."""


class Nf4Linear(nn.Module):
    """A frozen linear in four bits. `weight` holds its bytes, `absmax` the magnitudes of its blocks
    (in eight bits with `double_quantize`). Gradients flow through to the input. `quantization` is
    what an adapter's file says of its base."""

    quantization: ClassVar[str] = "nf4"
    absmax: Tensor
    nested_absmax: Tensor | None
    offset: Tensor | None

    def __init__(self, linear: nn.Linear, *, double_quantize: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.stored_dtype = linear.weight.dtype
        packed_P, absmax_K = quantize_nf4(linear.weight)
        self.weight = nn.Parameter(packed_P[:, None], requires_grad=False)
        self.bias = linear.bias
        scale_M = mean = None
        if double_quantize:
            absmax_K, scale_M, mean = quantize_magnitudes(absmax_K)
        self.register_buffer("absmax", absmax_K, persistent=False)
        self.register_buffer("nested_absmax", scale_M, persistent=False)
        self.register_buffer("offset", mean, persistent=False)

    def forward(self, x_NI: Tensor) -> Tensor:
        if compute_dtype(x_NI) == torch.float16:
            warnings.warn("NF4 in float16 often diverges; compute in bfloat16", stacklevel=2)
        return frozen_linear(x_NI, self.dequantize, self.bias)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight `[O, I]`."""
        shape = (self.out_features, self.in_features)
        return dequantize_nf4(self.weight[:, 0], self._magnitudes(), shape, dtype)

    @property
    def num_bytes(self) -> int:
        """What the weight takes. (The tables of codes are shared by all.)"""
        parts = (self.weight, self.absmax, self.nested_absmax, self.offset)
        return sum(part.nbytes for part in parts if part is not None)

    def _magnitudes(self) -> Tensor:
        if self.nested_absmax is None or self.offset is None:
            return self.absmax
        return dequantize_magnitudes(Magnitudes(self.absmax, self.nested_absmax, self.offset))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Nf4Linear":
        """A conversion of the model to bfloat16 must not round the magnitudes."""
        before = {name: buffer.dtype for name, buffer in self._kept_buffers().items()}
        exact = self._kept_buffers()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in self._kept_buffers().items():
            if buffer.dtype != before[name]:
                setattr(self, name, exact[name].to(buffer.device))
        return self

    def _kept_buffers(self) -> dict[str, Tensor]:
        return dict(self.named_buffers(recurse=False))

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, tensor in self._side_tensors().items():
            destination[prefix + name] = tensor

    def _side_tensors(self) -> dict[str, Tensor]:
        device = self.absmax.device
        state: dict[str, Any] = {
            "quant_type": "nf4",
            "blocksize": BLOCK,
            "dtype": str(self.stored_dtype).removeprefix("torch."),
            "shape": [self.out_features, self.in_features],
        }
        side = {"weight.absmax": self.absmax, "weight.quant_map": nf4_codes(device).clone()}
        if self.nested_absmax is not None and self.offset is not None:
            state |= {
                "nested_blocksize": GROUP,
                "nested_dtype": "float32",
                "nested_offset": self.offset.item(),
            }
            side["weight.nested_absmax"] = self.nested_absmax
            side["weight.nested_quant_map"] = byte_codes(device).clone()
        written = json.dumps(state).encode()
        return side | {STATE: torch.tensor(list(written), dtype=torch.uint8)}

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any
    ) -> None:
        """Takes the tensors of this layer; the names that are missing are reported as usual."""
        _, _, missing, _, errors = arguments
        found = {key[len(prefix) :]: x for key, x in state_dict.items() if key.startswith(prefix)}
        wanted = ["weight", "weight.absmax", STATE, *(["bias"] if self.bias is not None else [])]
        absent = [prefix + name for name in wanted if name not in found]
        missing.extend(absent)
        if absent:
            return
        try:
            self._take(found)
        except ModelError as error:
            errors.append(f"{prefix.rstrip('.')}: {error}")

    def _take(self, found: Mapping[str, Tensor]) -> None:
        state = _read_state(found[STATE])
        shape = [self.out_features, self.in_features]
        if state.get("shape") != shape:
            raise ModelError(f"the weight is {state.get('shape')}; the model has {shape}")
        num_blocks = -(-shape[0] * shape[1] // BLOCK)
        _check("weight", found["weight"].view(-1), -(-shape[0] * shape[1] // 2), torch.uint8)
        is_nested = "nested_offset" in state
        codes = torch.uint8 if is_nested else torch.float32
        _check("weight.absmax", found["weight.absmax"], num_blocks, codes)
        device, nested, mean = self.weight.device, None, None
        if is_nested:
            nested = found.get("weight.nested_absmax", torch.empty(0))
            _check("weight.nested_absmax", nested, -(-num_blocks // GROUP), torch.float32)
            nested = nested.detach().to(device)
            mean = torch.tensor(float(state["nested_offset"]), device=device)
        self.weight.data = found["weight"].detach().view(-1, 1).to(device)
        self.absmax = found["weight.absmax"].detach().to(device)
        self.nested_absmax, self.offset = nested, mean
        if self.bias is not None:
            self.bias.data.copy_(found["bias"])


def convert_nf4(model: M, *, double_quantize: bool = True) -> M:
    """Turn the linears of a model's body into NF4, in place and one by one, and freeze all. Heads,
    norms and embeddings stay as they are. What is NF4 already is not touched again."""
    body = getattr(model, "body", model)
    for parent in list(body.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and name not in SKIPPED:
                setattr(parent, name, Nf4Linear(child, double_quantize=double_quantize))
    model.requires_grad_(False)
    return model


def dequantize(model: M, dtype: torch.dtype = torch.bfloat16) -> M:
    """Turn the NF4 linears of a model into plain ones of what they hold, in place and one by one,
    and the rest of it into the same type."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Nf4Linear):
                setattr(parent, name, _plain(child, dtype))
    return model.to(dtype)


def bits_per_weight(model: nn.Module) -> float:
    """What the weights of the NF4 linears take on average, all overhead included."""
    layers = [module for module in model.modules() if isinstance(module, Nf4Linear)]
    if not layers:
        raise ValueError("the model has no NF4 linears; convert_nf4(model) makes them")
    num_bytes = sum(layer.num_bytes for layer in layers)
    return 8 * num_bytes / sum(layer.in_features * layer.out_features for layer in layers)


def _plain(layer: Nf4Linear, dtype: torch.dtype) -> nn.Linear:
    made = nn.Linear(1, 1, bias=False)
    made.in_features, made.out_features = layer.in_features, layer.out_features
    made.weight = nn.Parameter(layer.dequantize(dtype), requires_grad=False)
    made.bias = layer.bias
    return made


def _read_state(packed: Tensor) -> dict[str, Any]:
    try:
        state = json.loads(bytes(packed.tolist()))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{STATE} is not JSON: {error}") from error
    rules = {"quant_type": "nf4", "blocksize": BLOCK}
    if isinstance(state, dict) and "nested_offset" in state:
        rules |= {"nested_blocksize": GROUP}
    for key, value in rules.items():
        if not isinstance(state, dict) or state.get(key) != value:
            raise ModelError(f"{STATE}: {key} must be {value!r}; quantize the model again")
    return dict(state)


def _check(name: str, tensor: Tensor, length: int, dtype: torch.dtype) -> None:
    if tensor.shape != (length,) or tensor.dtype != dtype:
        raise ModelError(
            f"{name} is {tuple(tensor.shape)} {tensor.dtype}; it must be ({length},) {dtype}"
        )
