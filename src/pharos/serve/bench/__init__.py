"""How fast an endpoint is: load that it is put under, and what its users would notice of it."""

from pharos.serve.bench.client import Api, BenchClient, Timing
from pharos.serve.bench.load import Load, closed_loop, is_saturated, measure, open_loop
from pharos.serve.bench.report import Distribution, LoadReport, summarize
from pharos.serve.bench.workload import Prompt, Span, file_prompts, random_prompts, shared_prompts

__all__ = [
    "Api",
    "BenchClient",
    "Distribution",
    "Load",
    "LoadReport",
    "Prompt",
    "Span",
    "Timing",
    "closed_loop",
    "file_prompts",
    "is_saturated",
    "measure",
    "open_loop",
    "random_prompts",
    "shared_prompts",
    "summarize",
]
