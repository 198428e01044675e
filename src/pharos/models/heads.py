"""Heads on top of a decoder's body. (Those of the encoders differ and stand in their files.)

Shapes: B sequences, T tokens, D hidden width, V vocabulary, C classes.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from pharos.models.config import with_labels
from pharos.models.family import Body, Model
from pharos.models.kv_cache import Cache
from pharos.models.readout import Readout, plain_weight, project
from pharos.models.weight_map import One, Source, below
from pharos.ops.masks import Mask


class CausalLM(Model):
    """The score of every token of the vocabulary to come next. A tied head has no weight of its
    own: it is the embedding again."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        config = body.config
        self.config = config
        self.body = body
        is_tied = config.tie_word_embeddings
        size = (config.hidden_size, config.vocab_size)
        self.lm_head = None if is_tied else nn.Linear(*size, bias=False)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask: Mask | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits `[B, T, V]`; see the body's `forward` for the arguments."""
        return self.logits(self.body(ids_BT, positions_BT=positions_BT, mask=mask, cache=cache))

    def logits(self, x_BTD: Tensor) -> Tensor:
        """Hidden states to logits: for those who need only some of them."""
        if self.lm_head is None:
            return project(self.body.embedding, x_BTD)
        y_BTV: Tensor = self.lm_head(x_BTD)
        return y_BTV

    def readout(self, x_D: Tensor) -> Readout | None:
        """What `logits` multiplies, if that is all it does."""
        weight_VD = plain_weight(self.body.embedding if self.lm_head is None else self.lm_head)
        return None if weight_VD is None else Readout(x_D, weight_VD)

    def weight_map(self, prefix: str) -> dict[str, Source]:
        names = below("body", self.body.weight_map(prefix))
        return names if self.lm_head is None else names | {"lm_head.weight": One("lm_head.weight")}

    def copies(self, prefix: str) -> dict[str, str]:
        if self.lm_head is not None:
            return {}
        (embedding,) = self.body.weight_map(prefix)["embedding.weight"].names
        return {"lm_head.weight": embedding}


class LastTokenClassifier(Model):
    """A decoder has read everything at its last token: that one's state is classified."""

    def __init__(self, body: Body, num_labels: int | None = None) -> None:
        super().__init__()
        self.config = body.config if num_labels is None else with_labels(body.config, num_labels)
        self.body = body
        self.score = nn.Linear(self.config.hidden_size, self.config.num_labels, bias=False)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask: Mask | None = None,
        last_B: Tensor | None = None,
    ) -> Tensor:
        """Logits `[B, C]`. `last_B` is where each sequence ends (default: at the last column)."""
        x_BTD = self.body(ids_BT, positions_BT=positions_BT, mask=mask)
        last_B = torch.full(ids_BT.shape[:1], -1) if last_B is None else last_B
        rows_B = torch.arange(len(ids_BT), device=ids_BT.device)
        y_BC: Tensor = self.score(x_BTD[rows_B, last_B.to(ids_BT.device)])
        return y_BC

    def weight_map(self, prefix: str) -> dict[str, Source]:
        return below("body", self.body.weight_map(prefix)) | {"score.weight": One("score.weight")}


class Reward(LastTokenClassifier):
    """One number for a whole text: how good it is."""

    def __init__(self, body: Body) -> None:
        super().__init__(body, num_labels=1)


class TokenClassifier(Model):
    """Each token's state is classified: names in a text, parts of speech."""

    NAME: ClassVar = "classifier"
    """Of the linear, in a checkpoint."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.config = body.config
        self.body = body
        self.classifier = nn.Linear(self.config.hidden_size, self.config.num_labels)

    def forward(
        self, ids_BT: Tensor, *, positions_BT: Tensor | None = None, mask: Mask | None = None
    ) -> Tensor:
        """Logits `[B, T, C]`."""
        y_BTC: Tensor = self.classifier(self.body(ids_BT, positions_BT=positions_BT, mask=mask))
        return y_BTC

    def weight_map(self, prefix: str) -> dict[str, Source]:
        names = below("body", self.body.weight_map(prefix))
        kinds = ("weight", "bias")
        return names | {f"classifier.{kind}": One(f"{self.NAME}.{kind}") for kind in kinds}
