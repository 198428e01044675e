"""What a completion is worth."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pharos.core.errors import TrainingError
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.models.heads import Reward
from pharos.models.load import new_model, save_model
from pharos.train.rl.rewards import Completion, RewardModelScorer, RewardSection, final_number
from pharos.train.settings import read_settings


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(
        ["The answer is 42. What is 7 times 6?"], TokenizerConfig(vocab_size=300)
    )


def completion(tokenizer: Tokenizer, text: str, answer: str | None) -> Completion:
    asked = {"prompt_ids": np.array(tokenizer.encode("What is 7 times 6?"), dtype=np.int32)}
    row = asked if answer is None else {**asked, "answer": np.array(answer)}
    return Completion(row, (*tokenizer.encode(text), *tokenizer.eos_ids), is_truncated=False)


def shouts(text: str, answer: str) -> float:
    """Imported by name."""
    return float(text.isupper()) + float(answer == "")


@pytest.mark.parametrize(
    ("said", "answer", "score"),
    [
        ("7 * 6 = 42", "She has 7 times 6.\n#### 42", 1.0),
        ("It is 42.0 dollars.", "#### 42", 1.0),
        ("About 1,234", "#### 1234", 1.0),
        ("-5", "#### 5", 0.0),
        ("42 or 43", "#### 42", 0.0),
        ("forty-two", "#### 42", 0.0),
        ("", "none", 0.0),
    ],
)
def test_the_final_number_decides(said: str, answer: str, score: float) -> None:
    assert final_number(said, answer) == score


def test_a_verifier_reads_the_text_without_special_tokens(tokenizer: Tokenizer) -> None:
    scorer = RewardSection(verifier="exact").scorer(tokenizer, device=torch.device("cpu"))
    said = [completion(tokenizer, text, "42") for text in ("42", "43")]
    assert scorer(said) == [1.0, 0.0]


def test_a_function_is_found_by_its_name(tokenizer: Tokenizer, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    section = RewardSection(function=f"{Path(__file__).stem}:shouts")
    scorer = section.scorer(tokenizer, device=torch.device("cpu"))
    said = [completion(tokenizer, "WHAT", "x"), completion(tokenizer, "what", None)]
    assert scorer(said) == [1.0, 1.0]


def test_a_function_that_there_is_not_is_an_error(tokenizer: Tokenizer) -> None:
    for name in ("no_such_package:f", "math:no_such_function", "math"):
        with pytest.raises(TrainingError, match=r"package\.module:name"):
            RewardSection(function=name).scorer(tokenizer, device=torch.device("cpu"))


def test_exactly_one_reward_is_named() -> None:
    for raw in ({}, {"verifier": "exact", "model": "x"}):
        with pytest.raises(TrainingError, match="name one of verifier"):
            read_settings(RewardSection, raw, "objective.reward")
    with pytest.raises(TrainingError, match="final_number"):
        read_settings(RewardSection, {"verifier": "finalnumber"}, "objective.reward")


def test_a_reward_model_scores_prompt_and_completion_at_its_end(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    raw = {"model_type": "llama", "vocab_size": 400, "num_attention_heads": 2, **sizes}
    model = new_model(raw, "reward", seed=0)
    assert isinstance(model, Reward)
    save_model(model, tmp_path / "reward")
    scorer = RewardSection(model=str(tmp_path / "reward")).scorer(
        tokenizer, device=torch.device("cpu")
    )
    said = [completion(tokenizer, text, None) for text in ("42", "The answer is 42.", "What?")]
    expected = [
        float(model(torch.tensor([[*c.prompt["prompt_ids"].tolist(), *c.ids]])).detach())
        for c in said
    ]
    assert scorer(said) == pytest.approx(expected, abs=1e-6)
    assert RewardModelScorer(model, batch_size=2)(said) == pytest.approx(expected, abs=1e-6)
