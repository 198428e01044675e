"""Lets the tests of masks and of attention import `mask_strategies`, which they share."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
