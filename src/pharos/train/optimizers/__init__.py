"""AdamW, AdamW with its state in 8 bits, and Muon."""

from pharos.train.optimizers.adamw8bit import AdamW8bit
from pharos.train.optimizers.make import OptimizerConfig, make_optimizer
from pharos.train.optimizers.muon import Muon

__all__ = ["AdamW8bit", "Muon", "OptimizerConfig", "make_optimizer"]
