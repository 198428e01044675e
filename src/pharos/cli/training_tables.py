"""How the plan of a training run looks, and a scaling law: as tables, and as JSON."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from rich.text import Text

from pharos.cli.plan_tables import (
    GIVEN,
    Row,
    amount,
    counted,
    dollars,
    gigabytes,
    lasting,
    print_assumptions,
    print_rows,
    print_title,
    table_of,
)
from pharos.cli.terminal import one_line, results
from pharos.train.planner.memory import STRATEGY_NAMES, MemoryUse, Mesh
from pharos.train.planner.mesh import Placement
from pharos.train.planner.scaling import Optimum, ScalingLaw
from pharos.train.planner.training import PATIENCE_DAYS, TrainingPlan

if TYPE_CHECKING:
    from pharos.train.planner.fit import FittedLaw


def print_training(plan: TrainingPlan) -> None:
    budget = plan.budget
    print_title(
        f"{counted(budget.params)} parameters on {counted(budget.tokens)} tokens: "
        f"{budget.compute:.3g} FLOP"
    )
    print_rows(_training_rows(plan))
    print_optima(plan.optima, "the best use of this compute, by")
    _print_memory(plan)
    _print_placement(plan)
    print_assumptions(_training_assumptions(plan))


def _training_rows(plan: TrainingPlan) -> list[Row]:
    given, budget, rates = plan.given, plan.budget, plan.assumptions.rates
    by_law = f"the law {plan.assumptions.law.name}"
    device = plan.assumptions.device.name
    per_token = f"{budget.tokens / budget.params:.3g} a parameter"
    one_is_known = bool(given.params or given.tokens or plan.is_shape_known)
    compute_is_known = bool(given.compute or given.money or (given.gpus and given.days))
    rest = "what the compute leaves" if one_is_known and compute_is_known else by_law
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
        ("GPU-hours", amount(budget.gpu_hours), f"at {rates.mfu:.0%} of {device}'s peak"),
        ("cost", dollars(budget.money), GIVEN if given.money else f"${rates.price:.2f} an hour"),
        ("GPUs", f"{plan.gpus:,}", gpus),
        ("time", lasting(plan.days), _time_note(plan)),
    ]


def _time_note(plan: TrainingPlan) -> str:
    speed = f"{counted(plan.tokens_per_second)} tokens a second"
    return speed if plan.given.days is None else f"{plan.given.days:g} days given; {speed}"


def _print_memory(plan: TrainingPlan) -> None:
    """Each way of sharing by itself, and the one that is recommended."""
    usable = plan.assumptions.machine.usable
    table = table_of(
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
    for note in _notes(plan):
        console.print(Text(f"  {note}", style="bold red"), soft_wrap=True)


def _notes(plan: TrainingPlan) -> list[str]:
    """What stands in the way of the mesh that is recommended."""
    is_in_pieces = plan.placement is not None and _is_in_pieces(plan.placement.mesh)
    if plan.job.optimizer != "adamw8bit" or not is_in_pieces:
        return []
    return [
        "adamw8bit has no checkpoints where weights lie in pieces, and pharos train refuses it "
        "there: plan with --optimizer adamw or muon."
    ]


def _is_in_pieces(mesh: Mesh) -> bool:
    return mesh.tensor > 1 or mesh.strategy == "fsdp"


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
    yield f"sequences of {plan.job.sequence_length:,} tokens (--sequence-length)"
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
        "notes": _notes(plan),
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


def print_optima(optima: Mapping[str, Optimum], title: str) -> None:
    table = table_of(title, "parameters", "tokens", "tokens/param", "loss")
    for name, optimum in optima.items():
        loss = "" if optimum.loss is None else f"{optimum.loss:.3f}"
        ratio = f"{optimum.tokens / optimum.parameters:.3g}"
        table.add_row(
            one_line(name), counted(optimum.parameters), counted(optimum.tokens), ratio, loss
        )
    results().print(table)


def meshed(mesh: Mesh) -> str:
    parts = [f"{STRATEGY_NAMES[mesh.strategy]} over {mesh.data:,}" if mesh.data > 1 else ""]
    parts += [f"tensor {mesh.tensor}" if mesh.tensor > 1 else ""]
    parts += [f"pipeline {mesh.pipeline}" if mesh.pipeline > 1 else ""]
    return " × ".join(part for part in parts if part) or "one device"


def law_json(law: ScalingLaw) -> dict[str, Any]:
    return {field.name: getattr(law, field.name) for field in fields(law)}


def print_fit(fitted: "FittedLaw", compute: float | None) -> None:
    law = fitted.law
    print_title(f"L(N, D) = E + A / N^alpha + B / D^beta through {fitted.num_runs} runs")
    named = {"E": "irreducible", "A": "A", "B": "B", "alpha": "alpha", "beta": "beta"}
    rows = [
        (shown, f"{getattr(law, name):.5g}", _interval(fitted, name))
        for shown, name in {**named, "N ~ C^": "exponent"}.items()
    ]
    print_rows([*rows, ("residual", f"{fitted.error:.2%}", "of the loss, root mean square")])
    if compute is not None:
        optima = {law.name: law.optimum(compute)}
        print_optima(optima, f"the best use of {compute:.3g} FLOP")


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
