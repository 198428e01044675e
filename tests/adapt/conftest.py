"""Lets these tests import `oracle` of the model families, and `peft_oracle`."""

import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("oracle", "peft_oracle")
here = Path(__file__).parent
sys.path[:0] = [str(here), str(here.parent / "models")]
