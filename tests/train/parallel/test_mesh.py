from typing import Any

import pytest

from pharos.core.errors import TrainingError
from pharos.models.bert import BertConfig
from pharos.models.load import build_model
from pharos.train.parallel import ParallelConfig, check_parallel

GPT2 = {"model_type": "gpt2", "vocab_size": 9, "n_embd": 24, "n_layer": 6, "n_head": 6}
MIXTRAL = {
    "model_type": "mixtral",
    "vocab_size": 9,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 6,
}


def config_of(raw: dict[str, Any]) -> Any:
    return build_model(raw, "causal_lm").config


def refused(config: ParallelConfig, raw: dict[str, Any] = GPT2, **settings: Any) -> str:
    given: dict[str, Any] = {"world": config.world, "task": "causal_lm"} | settings
    with pytest.raises(TrainingError) as error:
        check_parallel(config, model=config_of(raw), **given)
    return str(error.value)


def test_a_mesh_that_fits_is_accepted() -> None:
    config = ParallelConfig(data=2, tensor=2, pipeline=3)
    check_parallel(config, world=12, model=config_of(GPT2), task="causal_lm", num_micro_batches=6)


def test_a_mesh_larger_than_the_world_names_the_product_and_torchrun() -> None:
    message = refused(ParallelConfig(shard=4, tensor=2), world=4)
    assert "shard 4 × tensor 2 makes 8 processes, but 4 run" in message
    assert "torchrun --nproc-per-node 8" in message


def test_a_mesh_smaller_than_the_world_is_refused_too() -> None:
    assert "1 makes 1 processes, but 2 run" in refused(ParallelConfig(), world=2)


def test_heads_that_cannot_be_dealt_evenly_name_the_sizes_that_can() -> None:
    message = refused(ParallelConfig(tensor=4))
    assert message.startswith("parallel.tensor is 4: the model's n_head, 6,")
    assert message.endswith("choose from 1, 2, 3, 6")


def test_shared_keys_and_values_are_dealt_like_heads() -> None:
    assert "num_key_value_heads, 2" in refused(ParallelConfig(tensor=4), MIXTRAL)


def test_experts_must_be_dealt_evenly() -> None:
    assert "num_local_experts, 6" in refused(ParallelConfig(expert=4), MIXTRAL)


def test_only_a_mixture_has_experts_to_spread() -> None:
    assert "no plan to spread a gpt2 that way, only mixtral" in refused(ParallelConfig(expert=2))


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved"])
def test_layers_must_be_dealt_to_stages_evenly(schedule: Any) -> None:
    message = refused(ParallelConfig(pipeline=4, schedule=schedule))
    assert "the model's 6 layers cannot be dealt to" in message


def test_the_interleaved_schedule_has_two_stages_a_rank() -> None:
    raw = GPT2 | {"n_layer": 2}
    message = refused(ParallelConfig(pipeline=2, schedule="interleaved"), raw)
    assert "to 4 stages evenly" in message
    assert message.endswith("or the schedule 1f1b")


def test_a_pipeline_needs_micro_batches_for_all_its_stages() -> None:
    message = refused(ParallelConfig(pipeline=2), num_micro_batches=3)
    assert "a rank has 3 micro-batches" in message
    assert "training.micro_batch_size" in message


def test_a_pipeline_is_for_causal_language_models() -> None:
    config = ParallelConfig(pipeline=2)
    assert "the task is reward" in refused(config, task="reward")


def test_an_encoder_is_told_to_shard_instead() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    bert = BertConfig(vocab_size=9, intermediate_size=8, max_position_embeddings=8, **sizes)
    with pytest.raises(TrainingError, match=r"set it to 1 and use parallel\.shard"):
        check_parallel(ParallelConfig(tensor=2), world=2, model=bert, task="masked_lm")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tensor": 0}, "tensor is 0; it must be at least 1"),
        ({"schedule": "gpipe"}, "schedule is 'gpipe'; choose from 1f1b, interleaved"),
        ({"data": 2, "expert": 2}, "set shard to 2 and data to 1"),
    ],
)
def test_a_setting_that_never_works_is_refused_at_once(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ParallelConfig(**settings)


def test_the_world_is_the_product_of_the_axes() -> None:
    config = ParallelConfig(shard=2, expert=3, tensor=2, pipeline=2)
    assert (config.world, config.rows) == (24, 6)
    assert config.num_stages == 2
