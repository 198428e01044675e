"""Lets the tests of the model families import `oracle`, which they share."""

import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("oracle")
sys.path.insert(0, str(Path(__file__).parent))
