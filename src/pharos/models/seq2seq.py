"""What the encoder-decoders share: an encoder that reads a source once, a decoder that writes a
target token by token and looks at the source, and a cache for both.

    states_BSD = model.encode(ids_BS, valid_BS)
    cache = model.new_cache()
    logits_RTV = model.decode(ids_RT, states_BSD, valid_BS, cache)

A source may have several rows of targets, side by side: the beams of a search. They share its
states, keys and values, which are neither copied nor computed again.

Shapes: B sources, S source tokens, R rows of targets (a multiple of B), T target tokens, D hidden
width, V vocabulary, H heads, K width of a head, E = R / B rows of a source,
Q = E · T.
"""

from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor

from pharos.models.family import Body, Model
from pharos.models.kv_cache import FIRST_CAPACITY, KVCache
from pharos.models.weight_map import Source, below
from pharos.ops.attention import attention
from pharos.ops.masks import Full, Mask, Valid

KeysAndValues = tuple[Tensor, Tensor]


class Seq2SeqCache(KVCache):
    """The keys and values of the target's tokens, and those of the source's. `select` chooses among
    the rows, `select_sources` among the sources: what is left must be as many rows of each."""

    def __init__(self, *, num_layers: int, capacity: int = FIRST_CAPACITY) -> None:
        super().__init__(num_layers=num_layers, capacity=capacity)
        self._of_source: list[KeysAndValues | None] = [None] * num_layers

    def of_source(self, layer: int, project: Callable[[], KeysAndValues]) -> KeysAndValues:
        """A layer's keys and values of the source: `project` makes them, the first time."""
        kept = self._of_source[layer]
        if kept is None:
            kept = self._of_source[layer] = project()
        return kept

    def select_sources(self, kept_B: Tensor) -> None:
        for layer, kept in enumerate(self._of_source):
            self._of_source[layer] = None if kept is None else (kept[0][kept_B], kept[1][kept_B])

    @property
    def num_bytes(self) -> int:
        of_source = sum(k.nbytes + v.nbytes for k, v in filter(None, self._of_source))
        return super().num_bytes + of_source


class EncoderDecoder(Body):
    """Two towers: `encode` gives the source's states, `decode` the hidden states of a target."""

    @abstractmethod
    def encode(self, ids_BS: Tensor, valid_BS: Tensor | None = None) -> Tensor:
        """`[B, S, D]`. `valid_BS` marks what is not padding."""

    @abstractmethod
    def decode(
        self,
        ids_RT: Tensor,
        states_BSD: Tensor,
        valid_BS: Tensor | None = None,
        cache: Seq2SeqCache | None = None,
    ) -> Tensor:
        """`[R, T, D]`: each target token has seen those before it, in the cache too, and the whole
        source. With a cache, the states count at its first use only."""

    def forward(self, ids_BS: Tensor, target_RT: Tensor, valid_BS: Tensor | None = None) -> Tensor:
        """`[R, T, D]`: both at once, as in training."""
        return self.decode(target_RT, self.encode(ids_BS, valid_BS), valid_BS)


class Seq2SeqLM(Model):
    """An encoder-decoder with a head that scores every token of the vocabulary to come next."""

    def __init__(self, body: EncoderDecoder) -> None:
        super().__init__()
        self.config = body.config
        self.body = body

    def encode(self, ids_BS: Tensor, valid_BS: Tensor | None = None) -> Tensor:
        return self.body.encode(ids_BS, valid_BS)

    def decode(
        self,
        ids_RT: Tensor,
        states_BSD: Tensor,
        valid_BS: Tensor | None = None,
        cache: Seq2SeqCache | None = None,
    ) -> Tensor:
        """Logits `[R, T, V]`; the arguments are those of the body."""
        return self.logits(self.body.decode(ids_RT, states_BSD, valid_BS, cache))

    def forward(self, ids_BS: Tensor, target_RT: Tensor, valid_BS: Tensor | None = None) -> Tensor:
        """Logits `[R, T, V]`. The target begins with `decoder_start_token_id`, one place ahead of
        what it is scored against."""
        return self.decode(target_RT, self.encode(ids_BS, valid_BS), valid_BS)

    @abstractmethod
    def logits(self, x_RTD: Tensor) -> Tensor:
        """Hidden states to logits."""

    def new_cache(self) -> Seq2SeqCache:
        return Seq2SeqCache(num_layers=self.config.num_decoder_layers)

    def weight_map(self, prefix: str) -> dict[str, Source]:
        return below("body", self.body.weight_map(prefix))


def source_mask(valid_BS: Tensor | None) -> Mask:
    """What may be seen of a source."""
    return Full() if valid_BS is None else Valid(valid_BS.bool())


def split_heads(x_BTD: Tensor, num_heads: int) -> Tensor:
    return x_BTD.view(*x_BTD.shape[:-1], num_heads, -1).transpose(1, 2)


def merge_heads(x_BHTK: Tensor) -> Tensor:
    return x_BHTK.transpose(1, 2).flatten(2)


def attend_to_source(
    q_RHTK: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    valid_BS: Tensor | None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Cross-attention. To a source's keys, its rows are but more queries."""
    sources, (rows, heads, length, width) = len(k_BHSK), q_RHTK.shape
    q_BEHTK = q_RHTK.reshape(sources, rows // sources, heads, length, width)
    q_BHQK = q_BEHTK.transpose(1, 2).flatten(2, 3)
    mask = source_mask(valid_BS)
    y_BHQK = attention(q_BHQK, k_BHSK, v_BHSK, mask=mask, scale=scale, q_start=0, dropout=dropout)
    y_BHETK = y_BHQK.reshape(sources, heads, rows // sources, length, width)
    return y_BHETK.transpose(1, 2).flatten(0, 1)
