"""How the plan of a service looks: as tables, and as JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from pharos.cli.plan_tables import (
    GIVEN,
    binary,
    counted,
    dollars,
    gigabytes,
    print_assumptions,
    print_rows,
    print_title,
    seconds,
    table_of,
)
from pharos.cli.terminal import one_line, results
from pharos.train.planner.serving import ServingPlan


def print_serving(plan: ServingPlan, others: Sequence[ServingPlan]) -> None:
    shape, setup, load = plan.shape, plan.setup, plan.load
    print_title(
        f"{one_line(shape.name)} on {plan.gpus} {setup.device.name}: "
        f"{plan.requests_per_second:.3g} requests a second"
    )
    sizes = ((name, size) for name, size in plan.weight_bytes.items() if name != "fp16")
    all_weights = ", ".join(f"{gigabytes(size)} in {name}" for name, size in sizes)
    print_rows(
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
    print_assumptions(_serving_assumptions(plan))


def _print_others(plans: Sequence[ServingPlan]) -> None:
    """Replicas of other sizes; the one whose requests cost least stands out."""
    table = table_of("GPUs of a replica", "batch", "next token", "requests/s", "input", "output")
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
