import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.train.planner.memory import Job
from pharos.train.planner.mesh import Machine, meshes, recommend, smallest_world
from pharos.train.planner.shapes import SHAPES, ModelShape, assumed_shape, known_shape

H100 = Machine(memory=80e9)


def job(name: str, sequence_length: int = 2048) -> Job:
    shape = known_shape(name)
    assert shape is not None
    return Job(shape=shape, sequence_length=sequence_length)


def test_a_small_model_is_copied_to_every_device() -> None:
    placement = recommend(job("gpt2", 1024), 8, 512, H100)
    assert placement is not None
    assert (placement.mesh.strategy, placement.mesh.data) == ("ddp", 8)
    assert placement.batch_sequences == 512


def test_a_model_that_one_device_cannot_hold_is_sharded() -> None:
    placement = recommend(job("llama-2-7b", 4096), 8, 512, H100)
    assert placement is not None
    assert placement.mesh.strategy == "fsdp"
    assert placement.mesh.tensor == placement.mesh.pipeline == 1


def test_where_the_batch_ends_tensor_and_pipeline_parallelism_begin() -> None:
    placement = recommend(job("gpt3-175b"), 1024, 128, H100)
    assert placement is not None
    assert placement.mesh.data <= 256
    assert placement.mesh.tensor * placement.mesh.pipeline >= 4


def test_what_fits_nowhere_has_no_mesh_and_a_smallest_world_where_it_would() -> None:
    assert recommend(job("gpt3-175b"), 8, 256, H100) is None
    world = smallest_world(job("gpt3-175b"), 256, H100)
    assert world is not None and 32 <= world <= 128
    assert recommend(job("gpt3-175b"), world, 256, H100) is not None


def test_a_sequence_too_long_for_any_device_fits_on_no_world() -> None:
    assert smallest_world(job("gpt3-175b", 50_000_000), 1, H100) is None


@settings(deadline=None)
@given(
    shape=st.one_of(st.sampled_from(SHAPES), st.floats(1e6, 1e12).map(assumed_shape)),
    world=st.integers(1, 600),
    batch=st.integers(1, 4096),
    node_size=st.sampled_from([1, 4, 8]),
)
def test_whatever_is_recommended_can_be_run(
    shape: ModelShape, world: int, batch: int, node_size: int
) -> None:
    machine = Machine(memory=80e9, node_size=node_size)
    placement = recommend(Job(shape=shape, sequence_length=1024), world, batch, machine)
    if placement is None:
        return
    mesh = placement.mesh
    assert mesh.size == world
    assert shape.num_layers % mesh.pipeline == 0
    assert shape.num_heads % mesh.tensor == 0
    assert node_size % mesh.tensor == 0
    assert placement.memory.total <= machine.usable
    assert placement.accumulation >= mesh.pipeline
    assert placement.batch_sequences <= 2 * batch


def test_a_world_of_one_has_one_mesh() -> None:
    (mesh,) = meshes(job("gpt2"), 1, H100)
    assert mesh.size == 1


def test_checkpointing_that_is_asked_for_is_kept() -> None:
    assert recommend(job("gpt3-175b"), 64, 256, Machine(memory=40e9), may_recompute=False) is None
    placement = recommend(job("gpt2", 1024), 8, 512, H100, may_recompute=False)
    assert placement is not None and placement.checkpointing == "selective"


@pytest.mark.parametrize("world", [8, 64, 1024])
def test_sharding_comes_before_what_cuts_the_model(world: int) -> None:
    placement = recommend(job("llama-2-7b"), world, 8192, H100)
    assert placement is not None
    assert (placement.mesh.strategy, placement.mesh.data) == ("fsdp", world)
