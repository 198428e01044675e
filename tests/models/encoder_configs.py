"""Tiny encoders of every family, for the tests that hold for all of them.

Shapes: B texts, T tokens.
"""

from typing import Any

import torch
from oracle import SIZES, VOCAB, Padded, Pair, transformers
from torch import Tensor

BERT: dict[str, Any] = SIZES | {"intermediate_size": 48, "max_position_embeddings": 64}
DEBERTA: dict[str, Any] = BERT | {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "max_relative_positions": -1,
}
V3 = DEBERTA | {
    "position_buckets": 8,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}
CONFIGS = {
    "bert": transformers.BertConfig(**BERT),
    "bert, tanh gelu": transformers.BertConfig(**BERT, hidden_act="gelu_new"),
    "roberta": transformers.RobertaConfig(**BERT),
    "distilbert": transformers.DistilBertConfig(
        vocab_size=VOCAB, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=64
    ),
    "albert": transformers.AlbertConfig(**BERT, embedding_size=16),
    "albert, groups": transformers.AlbertConfig(
        **BERT,
        embedding_size=16,
        num_hidden_groups=2,
        inner_group_num=2,
        hidden_act="gelu",
    ),
    "deberta v3": transformers.DebertaV2Config(**V3),
    "deberta v2, convolution": transformers.DebertaV2Config(
        **V3, conv_kernel_size=3, conv_act="gelu", legacy=False
    ),
    "deberta v2, own keys, no buckets": transformers.DebertaV2Config(
        **DEBERTA | {"max_relative_positions": 6},
        embedding_size=16,
        type_vocab_size=2,
        conv_kernel_size=5,
        conv_groups=2,
        pooler_hidden_act="relu",
    ),
    "deberta v2, content to position": transformers.DebertaV2Config(
        **DEBERTA | {"pos_att_type": "c2p"}, position_buckets=4
    ),
    "deberta v2, plain attention": transformers.DebertaV2Config(**BERT),
}


class Batch:
    """The same padded batch for both: random ids, segments where the model has them."""

    def __init__(self, config: Any, padded: Padded) -> None:
        pad, self.valid_BT = config.pad_token_id or 0, padded.valid_BT
        ids_BT = padded.ids_BT.where(padded.ids_BT != pad, 7)
        self.ids_BT = ids_BT.where(self.valid_BT, pad)
        has_types = getattr(config, "type_vocab_size", 0) > 0
        types_BT = torch.arange(ids_BT.shape[1]).expand_as(ids_BT) * 2 // ids_BT.shape[1]
        self.token_types_BT = types_BT if has_types else None

    def through_ours(self, pair: Pair) -> Any:
        return pair.ours(self.ids_BT, valid_BT=self.valid_BT, token_types_BT=self.token_types_BT)

    def through_theirs(self, pair: Pair) -> Any:
        types = {} if self.token_types_BT is None else {"token_type_ids": self.token_types_BT}
        return pair.theirs(self.ids_BT, attention_mask=self.valid_BT.long(), **types)

    def outputs(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """Ours and theirs, without what stands at padding."""
        ours, theirs = self.through_ours(pair), self.through_theirs(pair)
        if isinstance(ours, tuple):
            ours, theirs = torch.stack(ours, -1), torch.stack((theirs[0], theirs[1]), -1)
        else:
            theirs = theirs[0]
        if ours.shape[:2] == self.valid_BT.shape:
            return ours[self.valid_BT], theirs[self.valid_BT]
        return ours, theirs
