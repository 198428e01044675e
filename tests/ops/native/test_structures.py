"""What Python hands to the kernels lies as they read it: the same fields, in the same order, of the
same types."""

import ctypes
import re

import pytest

from pharos.ops.native.build import SOURCE
from pharos.ops.native.structures import Block, Matrix, Pass, Prompt

STRUCTURES = {"Matrix": Matrix, "Block": Block, "Pass": Pass, "Prompt": Prompt}
TYPES = {
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "float": ctypes.c_float,
    "Matrix": Matrix,
}


def fields_in_c(name: str) -> list[tuple[str, type]]:
    """Those that a struct is declared with."""
    source = re.sub(r"/\*.*?\*/", "", SOURCE.read_text(), flags=re.DOTALL)
    (body,) = re.findall(r"typedef struct \{([^}]*)\} " + name + ";", source)
    found: list[tuple[str, type]] = []
    for declaration in filter(None, map(str.strip, body.split(";"))):
        kind, names = declaration.removeprefix("const ").split(maxsplit=1)
        for each in re.split(r",\s*", names):
            is_pointer = each.startswith("*")
            found.append((each.lstrip("*"), ctypes.c_void_p if is_pointer else TYPES[kind]))
    return found


@pytest.mark.parametrize("name", STRUCTURES)
def test_fields_are_those_of_the_kernels_in_their_order(name: str) -> None:
    assert list(STRUCTURES[name]._fields_) == fields_in_c(name)


def test_fields_are_read_as_they_were_given() -> None:
    matrix = Matrix(layout=2, num_outputs=3, num_inputs=5, padded_inputs=8)
    block = Block(matrix, num_heads=4, look_back=-1, head_eps=0.5)
    assert (block.query.num_outputs, block.query.padded_inputs) == (3, 8)
    assert (block.num_heads, block.look_back, block.head_eps) == (4, -1, 0.5)
    assert block.down.weight is None, "what is not given is nothing"
