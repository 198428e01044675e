"""How plans look: as tables with what they assume, and as JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from pharos.cli.terminal import indented, one_line, results
from pharos.train.planner.memory import STRATEGY_NAMES, MemoryUse, Mesh
from pharos.train.planner.mesh import Placement
from pharos.train.planner.scaling import Optimum, ScalingLaw
from pharos.train.planner.serving import ServingPlan
from pharos.train.planner.training import PATIENCE_DAYS, TrainingPlan

if TYPE_CHECKING:
    from pharos.train.planner.fit import FittedLaw

GIVEN = "given"
Row = tuple[str, str, str]


def print_training(plan: TrainingPlan) -> None:
    budget = plan.budget
    _title(
        f"{counted(budget.params)} parameters on {counted(budget.tokens)} tokens: "
        f"{budget.compute:.3g} FLOP"
    )
    _print_rows(_training_rows(plan))
    _print_optima(plan.optima, "the best use of this compute, by", plan.budget.params)
    _print_memory(plan)
    _print_placement(plan)
    _print_assumptions(_training_assumptions(plan))


def _training_rows(plan: TrainingPlan) -> list[Row]:
    given, budget, rates = plan.given, plan.budget, plan.assumptions.rates
    by_law = f"the law {plan.assumptions.law.name}"
    device = plan.assumptions.device.name
    per_token = f"{budget.tokens / budget.params:.3g} a parameter"
    size_is_known = not (given.params is None and given.tokens is None)
    rest = "what the compute leaves" if size_is_known else by_law
    if given.compute is None and given.money is None and not (given.gpus and given.days):
        rest = by_law
    params = GIVEN if given.params else plan.job.shape.name if plan.is_shape_known else rest
    attention = "6 N D"
    if plan.attention_compute:
        share = plan.attention_compute / budget.compute
        attention += f" and attention, {share:.1%} of it"
    gpus = GIVEN if given.gpus else "for the days" if given.days else "assumed: see below"
    return [
        ("parameters", counted(budget.params), params),
        ("tokens", counted(budget.tokens), f"{GIVEN if given.tokens else rest}; {per_token}"),
        ("compute", f"{budget.compute:.3g} FLOP", GIVEN if given.compute else attention),
        ("loss", f"{plan.loss:.3f}", f"nats per token, by {by_law}"),
        ("GPU-hours", f"{budget.gpu_hours:,.0f}", f"at {rates.mfu:.0%} of {device}'s peak"),
        ("cost", dollars(budget.money), GIVEN if given.money else f"${rates.price:.2f} an hour"),
        ("GPUs", f"{plan.gpus:,}", gpus),
        ("days", f"{plan.days:,.3g}", _days_note(plan)),
    ]


def _days_note(plan: TrainingPlan) -> str:
    speed = f"{counted(plan.tokens_per_second)} tokens a second"
    return speed if plan.given.days is None else f"{plan.given.days:g} given; {speed}"


def _print_optima(optima: dict[str, Optimum] | Any, title: str, params: float | None) -> None:
    table = _table(title, "parameters", "tokens", "tokens/param", "loss")
    for name, optimum in optima.items():
        loss = "" if optimum.loss is None else f"{optimum.loss:.3f}"
        ratio = f"{optimum.tokens / optimum.parameters:.3g}"
        table.add_row(
            one_line(name), counted(optimum.parameters), counted(optimum.tokens), ratio, loss
        )
    results().print(table)


def _print_memory(plan: TrainingPlan) -> None:
    """Each way of sharing by itself, and the one that is recommended."""
    usable = plan.assumptions.machine.usable
    table = _table(
        "GB a GPU", "weights", "grads", "optimizer", "copies", "activations", "sum", "fits"
    )
    for name, (_, memory) in plan.strategies.items():
        table.add_row(name, *_memory_cells(memory, usable))
    if plan.placement is not None:
        cells = _memory_cells(plan.placement.memory, usable)
        table.add_row("recommended", *cells, style="bold")
    results().print(table)


def _memory_cells(memory: MemoryUse, usable: float) -> list[str]:
    parts = (
        memory.weights, memory.gradients, memory.optimizer,
        memory.working, memory.activations, memory.total,
    )  # fmt: skip
    return [*(gigabytes(part) for part in parts), "yes" if memory.total <= usable else "no"]


def _print_placement(plan: TrainingPlan) -> None:
    console, placement = results(), plan.placement
    if placement is None:
        way_out = "take another GPU, or a smaller model"
        if plan.smallest_world is not None:
            way_out = f"it does on {plan.smallest_world:,}"
        text = f"  It does not fit on {plan.gpus:,} {plan.assumptions.device.name}: {way_out}."
        console.print(Text(text, style="bold red"), soft_wrap=True)
        return
    length = plan.job.sequence_length
    tokens = placement.batch_sequences * length
    sentence = (
        f"  Recommended: {meshed(placement.mesh)}; checkpointing {placement.checkpointing}.\n"
        f"  Micro-batch {placement.micro_batch} × {placement.mesh.data} data-parallel × "
        f"{placement.accumulation} accumulated = {placement.batch_sequences:,} sequences of "
        f"{length:,}: {counted(tokens)} tokens a step, {plan.num_steps:,} steps."
    )
    console.print(Text(sentence, style="bold"), soft_wrap=True)


def _training_assumptions(plan: TrainingPlan) -> Iterable[str]:
    assumed, device = plan.assumptions, plan.assumptions.device
    yield (
        f"{device.name}: {device.flops / 1e12:,.0f} TFLOP/s in bf16, "
        f"{device.memory / 1e9:,.0f} GB, of which {assumed.reserve:.0%} stay free; "
        f"MFU {assumed.mfu:.0%} (--mfu), ${assumed.rates.price:.2f} an hour (--price), "
        f"nodes of {assumed.node_size} (--node-size)"
    )
    if not plan.is_shape_known:
        yield f"shape, for memory only: {plan.job.shape.name} (--model)"
    if plan.given.gpus is None and plan.given.days is None:
        yield f"GPUs: the fewest that hold it and are done in {PATIENCE_DAYS} days (--gpus, --days)"
    yield (
        f"{plan.job.optimizer}, states in {plan.job.states}, a sequence at a time in the table; "
        "activations by Korthikanti et al. 2022"
    )
    yield (
        f"batch {counted(plan.target_batch_tokens)} tokens (--batch-tokens) and learning rate "
        f"{plan.learning_rate:.1e} by DeepSeek LLM's fit; kaplan counts without embeddings"
    )


def training_json(plan: TrainingPlan) -> dict[str, Any]:
    budget, assumed = plan.budget, plan.assumptions
    return {
        "parameters": budget.params,
        "tokens": budget.tokens,
        "compute": budget.compute,
        "attention_compute": plan.attention_compute,
        "loss": plan.loss,
        "gpu_hours": budget.gpu_hours,
        "dollars": budget.money,
        "gpus": plan.gpus,
        "days": plan.days,
        "tokens_per_second": plan.tokens_per_second,
        "steps": plan.num_steps,
        "learning_rate": plan.learning_rate,
        "optima": {name: asdict(optimum) for name, optimum in plan.optima.items()},
        "memory": {name: _memory_json(memory) for name, (_, memory) in plan.strategies.items()},
        "recommended": plan.placement and _placement_json(plan.placement),
        "smallest_world": plan.smallest_world,
        "shape": {**asdict(plan.job.shape), "is_assumed": not plan.is_shape_known},
        "assumptions": {
            "device": asdict(assumed.device),
            "mfu": assumed.mfu,
            "price": assumed.rates.price,
            "law": law_json(assumed.law),
            "sequence_length": plan.job.sequence_length,
            "batch_tokens": plan.target_batch_tokens,
            "optimizer": plan.job.optimizer,
            "states": plan.job.states,
            "node_size": assumed.node_size,
            "reserve": assumed.reserve,
        },
    }


def _memory_json(memory: MemoryUse) -> dict[str, float]:
    return {**asdict(memory), "total": memory.total}


def _placement_json(placement: Placement) -> dict[str, Any]:
    return {
        "mesh": asdict(placement.mesh),
        "checkpointing": placement.checkpointing,
        "micro_batch": placement.micro_batch,
        "accumulation": placement.accumulation,
        "batch_sequences": placement.batch_sequences,
        "memory": _memory_json(placement.memory),
    }


def law_json(law: ScalingLaw) -> dict[str, Any]:
    return {field.name: getattr(law, field.name) for field in fields(law)}


def print_serving(plan: ServingPlan, others: Sequence[ServingPlan]) -> None:
    shape, setup, load = plan.shape, plan.setup, plan.load
    _title(
        f"{one_line(shape.name)} on {plan.gpus} {setup.device.name}: "
        f"{plan.requests_per_second:.3g} requests a second"
    )
    sizes = ((name, size) for name, size in plan.weight_bytes.items() if name != "fp16")
    all_weights = ", ".join(f"{gigabytes(size)} in {name}" for name, size in sizes)
    _print_rows(
        [
            ("parameters", counted(shape.num_parameters), _active(plan)),
            ("weights", f"{gigabytes(plan.weight_bytes[setup.weights])} GB", f"GB: {all_weights}"),
            ("KV cache", binary(plan.kv_bytes_per_token), f"a token, in {setup.cache}"),
            ("", binary(plan.kv_bytes_per_sequence), f"a sequence of {load.sequence_length:,}"),
            ("GPUs", f"{plan.gpus}", GIVEN if setup.gpus else "the fewest that hold it"),
            ("batch", f"{plan.batch:,}", f"{plan.largest_batch:,} fit"),
            (
                "first token",
                seconds(plan.first_token_seconds),
                f"{load.prompt_tokens:,} read alone",
            ),
            ("next token", seconds(plan.step_seconds), _bound(plan)),
            ("decoding", f"{plan.decode_tokens_per_second:,.0f}", "tokens a second, all sequences"),
            ("requests", f"{plan.requests_per_second:.3g}", "a second, reading and writing"),
            ("a request", seconds(plan.seconds_per_request), "in a full batch"),
            ("input", f"${plan.dollars_per_million_input:.3g}", "a million tokens"),
            ("output", f"${plan.dollars_per_million_output:.3g}", "a million tokens"),
            ("replicas", f"{plan.replicas:,}", _fleet(plan)),
        ]
    )
    if len(others) > 1:
        _print_others(others)
    _print_assumptions(_serving_assumptions(plan))


def _print_others(plans: Sequence[ServingPlan]) -> None:
    """Replicas of other sizes; the one whose requests cost least stands out."""
    table = _table("GPUs of a replica", "batch", "next token", "requests/s", "input", "output")
    best = max(plans, key=lambda plan: plan.requests_per_second / plan.gpus)
    for plan in plans:
        table.add_row(
            f"{plan.gpus}",
            f"{plan.batch:,}",
            seconds(plan.step_seconds),
            f"{plan.requests_per_second:.3g}",
            f"${plan.dollars_per_million_input:.3g}",
            f"${plan.dollars_per_million_output:.3g}",
            style="bold" if plan is best else "",
        )
    results().print(table)


def _active(plan: ServingPlan) -> str:
    shape = plan.shape
    if shape.num_active_parameters == shape.num_parameters:
        return ""
    return f"of which a token meets {counted(shape.num_active_parameters)}"


def _bound(plan: ServingPlan) -> str:
    by = "bandwidth" if plan.is_bound_by_bandwidth else "FLOP/s"
    return f"of each sequence; {by} is the limit"


def _fleet(plan: ServingPlan) -> str:
    wanted = plan.load.requests_per_second
    what = "" if wanted is None else f"for {wanted:g} requests a second; "
    return f"{what}{plan.total_gpus:,} GPUs, {dollars(plan.dollars_per_day)} a day"


def _serving_assumptions(plan: ServingPlan) -> Iterable[str]:
    setup, device = plan.setup, plan.setup.device
    yield (
        f"{device.name}: {device.bandwidth / 1e9:,.0f} GB/s, of which decoding reaches "
        f"{setup.bandwidth_efficiency:.0%} (--bandwidth); {device.memory / 1e9:,.0f} GB, of which "
        f"{setup.reserve:.0%} stay free; {setup.flops / setup.mfu / 1e12:,.0f} TFLOP/s, of which "
        f"{setup.mfu:.0%} are reached (--mfu)"
    )
    yield f"${setup.price_per_second * 3600:.2f} for a GPU's hour (--price), every hour fully used"
    yield (
        "full batches, no queue, no prefix shared; a sequence's whole cache is set aside; what "
        "GPUs say to each other is in the shares"
    )


def serving_json(plan: ServingPlan, others: Sequence[ServingPlan]) -> dict[str, Any]:
    return {
        **_serving_values(plan),
        "shape": asdict(plan.shape),
        "load": asdict(plan.load),
        "assumptions": {
            **asdict(plan.setup),
            "price": plan.setup.price_per_second * 3600,
        },
        "by_gpus": [_serving_values(other) for other in others],
    }


def _serving_values(plan: ServingPlan) -> dict[str, Any]:
    names = (
        "weight_bytes", "kv_bytes_per_token", "kv_bytes_per_sequence", "gpus", "batch",
        "largest_batch", "first_token_seconds", "step_seconds", "is_bound_by_bandwidth",
        "decode_tokens_per_second", "requests_per_second", "seconds_per_request",
        "dollars_per_million_input", "dollars_per_million_output", "replicas", "total_gpus",
        "dollars_per_day",
    )  # fmt: skip
    return {name: getattr(plan, name) for name in names}


def print_fit(fitted: "FittedLaw", compute: float | None) -> None:
    law = fitted.law
    _title(f"L(N, D) = E + A / N^alpha + B / D^beta through {fitted.num_runs} runs")
    named = {"E": "irreducible", "A": "A", "B": "B", "alpha": "alpha", "beta": "beta"}
    rows = [
        (shown, f"{getattr(law, name):.5g}", _interval(fitted, name))
        for shown, name in {**named, "N ~ C^": "exponent"}.items()
    ]
    _print_rows([*rows, ("residual", f"{fitted.error:.2%}", "of the loss, root mean square")])
    if compute is not None:
        optima = {law.name: law.optimum(compute)}
        _print_optima(optima, f"the best use of {compute:.3g} FLOP", None)


def _interval(fitted: "FittedLaw", name: str) -> str:
    if name not in fitted.intervals:
        return ""
    low, high = fitted.intervals[name]
    return f"95%: {low:.5g} to {high:.5g}"


def fit_json(fitted: "FittedLaw", compute: float | None) -> dict[str, Any]:
    return {
        "law": law_json(fitted.law),
        "exponent": fitted.law.exponent,
        "intervals": {name: list(interval) for name, interval in fitted.intervals.items()},
        "residual": fitted.error,
        "runs": fitted.num_runs,
        "optimum": None if compute is None else asdict(fitted.law.optimum(compute)),
    }


def counted(number: float) -> str:
    """`7.24B`; three digits, as the field writes sizes."""
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * scale:
            return f"{number / scale:.3g}{letter}"
    return f"{number:.3g}"


def gigabytes(num_bytes: float) -> str:
    value = num_bytes / 1e9
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 0.05 else "0"


def binary(num_bytes: float) -> str:
    """In units of 1024, as caches are counted."""
    value, unit = float(num_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.4g} {unit}"


def dollars(amount: float) -> str:
    return f"${amount:,.0f}" if amount < 1e6 else f"${counted(amount)}"


def seconds(duration: float) -> str:
    return f"{duration:.3g} s" if duration >= 1 else f"{duration * 1000:.3g} ms"


def meshed(mesh: Mesh) -> str:
    parts = [f"{STRATEGY_NAMES[mesh.strategy]} over {mesh.data:,}" if mesh.data > 1 else ""]
    parts += [f"tensor {mesh.tensor}" if mesh.tensor > 1 else ""]
    parts += [f"pipeline {mesh.pipeline}" if mesh.pipeline > 1 else ""]
    return " × ".join(part for part in parts if part) or "one device"


def _title(text: str) -> None:
    results().print(Text(text, style="bold"), soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(title, overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _print_rows(rows: Sequence[Row]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(style="dim")
    table.add_column(justify="right", no_wrap=True, style="bold")
    table.add_column(style="dim", overflow="fold")
    for name, value, note in rows:
        table.add_row(name, value, one_line(note))
    results().print(table)


def _print_assumptions(assumptions: Iterable[str]) -> None:
    console = results()
    console.print(Text("\nAssumed", style="dim"))
    for assumption in assumptions:
        for line in indented(Text(one_line(assumption), style="dim"), "  ", console):
            console.print(line)
