"""How fast an endpoint is: load that it is put under, and what its users would notice of it."""

from pharos.serve.bench.client import Api, BenchClient, Timing
from pharos.serve.bench.load import Load, closed_loop, measure, open_loop
from pharos.serve.bench.report import Distribution, LoadReport, summarize
from pharos.serve.bench.saturation import Pace, Saturation, is_saturated, pace_of, saturation
from pharos.serve.bench.workload import Prompt, Span, file_prompts, random_prompts, shared_prompts

__all__ = [
    "Api",
    "BenchClient",
    "Distribution",
    "Load",
    "LoadReport",
    "Pace",
    "Prompt",
    "Saturation",
    "Span",
    "Timing",
    "closed_loop",
    "file_prompts",
    "is_saturated",
    "measure",
    "open_loop",
    "pace_of",
    "random_prompts",
    "saturation",
    "shared_prompts",
    "summarize",
]
