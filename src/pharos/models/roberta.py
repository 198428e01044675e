"""RoBERTa (Liu et al. 2019, arXiv:1907.11692): BERT, trained longer and without the next sentence.

The network differs from BERT's in one thing: the first rows of the position table belong to
padding, and a padded batch counts its positions over what is not the padding token. XLM-RoBERTa
(Conneau et al. 2019, arXiv:1911.02116) and CamemBERT (arXiv:1911.03894) are the same network.

Shapes: B texts, T tokens, D hidden width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pharos.core.errors import ModelError
from pharos.models.bert import Bert
from pharos.models.config import TokenIds
from pharos.models.encoder import EncoderConfig
from pharos.models.encoder_heads import (
    FirstTokenClassifier,
    MaskedLM,
    QuestionAnswering,
    TokenClassifier,
)
from pharos.models.family import Body, Family


@dataclass(frozen=True, kw_only=True, slots=True)
class RobertaConfig(EncoderConfig):
    """Positions begin after `pad_token_id`, of which there must be one."""

    FIXED: ClassVar[Mapping[str, Any]] = {
        "is_decoder": False,
        "add_cross_attention": False,
    }

    model_type: str = "roberta"
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: TokenIds = 2

    def __post_init__(self) -> None:
        super(RobertaConfig, self).__post_init__()
        pad = self.pad_token_id
        if pad is None or not 0 <= pad < self.max_position_embeddings - 1:
            raise ModelError(
                f"config.json: pad_token_id is {pad}; positions begin after it, so it must be 0 or "
                f"more and leave some of the {self.max_position_embeddings} positions"
            )


class Roberta(Bert):
    """From tokens to their last hidden states."""

    def __init__(self, config: RobertaConfig) -> None:
        assert config.pad_token_id is not None
        self.first_position = config.pad_token_id + 1
        super().__init__(config)

    def positions(self, ids_BT: Tensor) -> Tensor:
        """Counted over the tokens that are not padding; padding itself is at -1."""
        is_token_BT = (ids_BT != self.config.pad_token_id).long()
        positions_BT: Tensor = is_token_BT.cumsum(1) * is_token_BT - 1
        return positions_BT


class RobertaMaskedLM(MaskedLM):
    NAMES: ClassVar[Mapping[str, str]] = {
        "dense": "lm_head.dense",
        "norm": "lm_head.layer_norm",
        "": "lm_head",
    }


class RobertaClassifier(FirstTokenClassifier):
    NAMES: ClassVar[Mapping[str, str]] = {
        "dense": "classifier.dense",
        "out": "classifier.out_proj",
    }

    def __init__(self, body: Body) -> None:
        super().__init__(body, first_dropout=body.config.head_dropout)


class RobertaReward(RobertaClassifier):
    """One number for a whole text: how good it is."""

    NUM_LABELS = 1


FAMILY = Family(
    model_types={"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"},
    config=RobertaConfig,
    body=Roberta,
    prefix="roberta.",
    ignored=(r"(roberta\.)?embeddings\.position_ids", r"(roberta\.)?pooler\.", r"lm_head\."),
    tasks={
        "masked_lm": RobertaMaskedLM,
        "sequence_classification": RobertaClassifier,
        "token_classification": TokenClassifier,
        "question_answering": QuestionAnswering,
        "reward": RobertaReward,
    },
)
