"""What a run checks before anything is loaded: that its recipe fits this machine and its files."""

from pathlib import Path

from pharos.core.errors import TrainingError
from pharos.models.checkpoint import read_config
from pharos.models.resolve import find_model
from pharos.train.adaptation import check_beginning, read_adaptation
from pharos.train.checkpoint import Checkpoints
from pharos.train.objectives import OBJECTIVES
from pharos.train.parallel import ParallelConfig, check_parallel
from pharos.train.recipe import Recipe, model_config
from pharos.train.schedules import Schedule


def check_run(recipe: Recipe, parallel: ParallelConfig, *, world: int, resume: bool) -> None:
    """Raises TrainingError, or ValueError, naming the key at fault. `world` is how many processes
    there are."""
    Schedule(recipe.schedule, steps=recipe.training.steps)
    _check_devices(recipe, parallel, world)
    _check_whole(recipe, parallel)
    _check_pipeline(recipe, parallel)
    if recipe.adapter is not None:
        check_beginning(read_adaptation(recipe.adapter))
    checkpoints = Checkpoints(Path(recipe.output) / "checkpoints", recipe.training.keep)
    if not resume and checkpoints.steps():
        raise TrainingError(
            f"{recipe.output} holds a run already; go on with --resume, name another output, or "
            "remove it"
        )


def num_micro_batches(recipe: Recipe, parallel: ParallelConfig) -> int:
    """Of a step, on each process that has rows of its own."""
    config = recipe.training
    return config.batch_size // (config.micro_batch(parallel.rows) * parallel.rows)


def _check_devices(recipe: Recipe, parallel: ParallelConfig, world: int) -> None:
    section, name = recipe.model, str(recipe.objective["name"])
    folder = section.load or section.student_of
    raw = section.config if folder is None else read_config(find_model(folder).path)
    assert raw is not None, "a section has one of three"
    task = getattr(OBJECTIVES[name].build, "task", name)
    check_parallel(
        parallel,
        world=world,
        model=model_config(raw),
        task=task if isinstance(task, str) else name,
        num_micro_batches=num_micro_batches(recipe, parallel),
    )


def _check_whole(recipe: Recipe, parallel: ParallelConfig) -> None:
    if parallel.world == parallel.data:
        return
    for key, is_given in {
        "training.ema": recipe.training.ema is not None,
        "training.compile": recipe.training.compile,
        "adapter": recipe.adapter is not None,
        "model.freeze": bool(recipe.model.freeze),
    }.items():
        if is_given:
            raise TrainingError(
                f"{key} is for models that each process has whole; leave it out, or set "
                "parallel.shard, tensor, pipeline and expert to 1"
            )


def _check_pipeline(recipe: Recipe, parallel: ParallelConfig) -> None:
    if parallel.pipeline == 1:
        return
    if recipe.objective.get("load_balancing"):
        raise TrainingError(
            "objective.load_balancing needs the routers of all layers, and a pipeline's last "
            "stage has only its own; leave it out, or set parallel.pipeline to 1"
        )
    if recipe.training.precision == "fp16":
        raise TrainingError("training.precision fp16 has no pipeline; choose bf16")
