from typing import Any

import pytest
import torch

from pharos.core.errors import TrainingError
from pharos.models.load import load_model, save_model
from pharos.train.objectives.student import spaced, student_of

DEEP: dict[str, tuple[Any, dict[str, Any]]] = {
    "bert": ("masked_lm", {"num_hidden_layers": 5}),
    "llama": ("causal_lm", {"num_hidden_layers": 5}),
    "gpt2": ("causal_lm", {"n_layer": 5}),
    "t5": ("seq2seq_lm", {"num_layers": 5}),
}
KEPT = (0, 2, 4)


def layer_of(name: str, kept: tuple[int, ...]) -> str:
    """A parameter's name, with the layer's number that it has in the teacher."""
    parts = name.split(".")
    return ".".join(str(kept[int(part)]) if part.isdigit() else part for part in parts)


def test_six_of_twelve_layers_are_distilberts() -> None:
    assert spaced(12, 6) == [0, 2, 4, 7, 9, 11]
    assert spaced(4, 4) == [0, 1, 2, 3]
    assert spaced(6, 1) == [0]


@pytest.mark.parametrize("kind", DEEP)
def test_a_student_is_every_other_layer_of_its_teacher(kind: str, tiny: Any) -> None:
    task, changes = DEEP[kind]
    teacher = tiny(kind, task, **changes)
    student = student_of(teacher, 3)
    assert type(student) is type(teacher)
    assert student.config.num_hidden_layers == 3
    state = teacher.state_dict()
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, state[layer_of(name, KEPT)])
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_a_student_shares_no_memory_with_its_teacher(tiny: Any) -> None:
    teacher = tiny("bert", "masked_lm").requires_grad_(False)
    with torch.no_grad():
        for parameter in student_of(teacher, 2).parameters():
            parameter.zero_()
    assert teacher.body.embedding.weight.abs().sum() > 0


def test_towers_may_keep_different_numbers_of_layers(tiny: Any) -> None:
    student = student_of(tiny("t5", "seq2seq_lm", num_layers=4), 2, decoder_layers=3)
    assert (len(student.body.encoder.blocks), len(student.body.decoder.blocks)) == (2, 3)


def test_settings_of_each_layer_are_the_kept_layers(tiny: Any) -> None:
    windows = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}
    teacher = tiny("llama", "causal_lm", **windows, num_hidden_layers=5, model_type="qwen2")
    assert student_of(teacher, 3).config.windows == (None, None, 8)


def test_a_student_is_saved_and_loaded_like_any_model(tiny: Any, tmp_path: Any) -> None:
    student = student_of(tiny("llama", "causal_lm"), 1)
    save_model(student, tmp_path)
    loaded = load_model(tmp_path).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in student.state_dict().items())


def test_more_layers_than_there_are_is_refused(tiny: Any) -> None:
    with pytest.raises(TrainingError, match="3 layers: its teacher has 2, choose 1 to 2"):
        student_of(tiny("bert", "masked_lm"), 3)
    with pytest.raises(TrainingError, match="a bert is no encoder-decoder; leave it out"):
        student_of(tiny("bert", "masked_lm"), 1, decoder_layers=1)
