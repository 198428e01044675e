"""Checks on the first batch, which stop a wrong run before it costs money.

A model that knows nothing guesses evenly, so what its first loss must be is known: ln V over a
vocabulary of V, ln C over C classes, ln B for one partner among B. A model that knows something
must do better than that. And what a label must be follows mostly from the ids beside it.

How near is near: the scores of a fresh model are not all equal. With weights of the usual deviation
0.02 over states of unit size they have the variance v = 0.02² · D, which adds v / 2 to the loss;
0.5 is left for the draw, and for texts in which few tokens are most. (Measured with six
architectures from D = 32 and V = 64 to D = 768 and V = 50,257: from -0.06 to +0.28.) T5 begins with
weights of unit deviation: up to 3 above ln V with a tied head, a hundred without. Of it only too
low a loss is an error.

Shapes: B rows, T places, N targets.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from pharos.core.errors import TrainingError
from pharos.models import encoder_heads, heads
from pharos.models.family import Model
from pharos.models.seq2seq import Seq2SeqLM
from pharos.models.t5 import T5Config
from pharos.models.two_towers import TwoTowers
from pharos.train.objective import IGNORED, Batch, Objective, total_counts
from pharos.train.objectives.contrastive import num_pairs, world_size
from pharos.train.objectives.distillation import Distillation
from pharos.train.objectives.masked_lm import MaskedLM
from pharos.train.objectives.preference import DPO

USUAL_STD = 0.02
SLACK = 0.5
EXACT, NEAR = 1e-4, 1e-2
"""Two passes over one batch give the same numbers; over batches of other shapes, in 16 bits, not
quite."""
MOST_GAP = 0.1
SWITCH = "check_first_step: false switches this check off"


def check_first_step(
    model: nn.Module,
    objective: Objective,
    batches: Sequence[Batch],
    evaluate: Callable[[Sequence[Batch]], Mapping[str, Tensor]],
    *,
    is_fresh: bool,
) -> None:
    """Everything, for the micro-batches of a step and what `evaluate` sums of their losses; the
    model sees them after they were checked. `is_fresh` says that its weights were drawn and not
    loaded. Raises TrainingError for what cannot be right."""
    check_tied(model)
    for batch in batches:
        check_batch(model, objective, batch)
    sums, counts = evaluate(batches), total_counts(objective, batches)
    check_first_loss(model, objective, batches[0], sums, counts, is_fresh=is_fresh)


def check_vocabulary(model: Model, num_tokens: int) -> None:
    """A tokenizer of so many tokens must not have one that the model lacks."""
    size = model.config.vocab_size
    if num_tokens > size:
        raise TrainingError(
            f"the tokenizer has {num_tokens} tokens and the model {size}; make the model's "
            f"vocab_size at least {num_tokens}, or take the tokenizer that the model came with, "
            "and name what that lacks as model.new_tokens"
        )


# -- the batch


def check_batch(model: nn.Module, objective: Objective, batch: Batch) -> None:
    """What must hold before the model sees it: a target, ids and labels that exist, and labels that
    belong to their ids."""
    counts = objective.count(batch)
    if not any(counts.values()):
        raise TrainingError(
            f"no valid target in the first batch ({', '.join(counts)}): all labels are masked; "
            "look at the data with --preview, and whether rows are cut before their answers begin"
        )
    for name, size, of in _ranges(model, batch):
        _check_range(name, batch[name], size, of)
    if (
        isinstance(model, heads.CausalLM | Seq2SeqLM)
        and batch["labels"].shape == batch["ids"].shape
    ):
        _check_next_tokens(batch)
    hard = objective.hard if isinstance(objective, Distillation) else objective
    if isinstance(hard, MaskedLM):
        _check_kept_tokens(hard, batch)


def _ranges(model: nn.Module, batch: Batch) -> Iterator[tuple[str, int, str]]:
    """The tensors whose numbers are of a table: how many that has, and what they are."""
    if isinstance(model, TwoTowers):
        towers = {"first_": model.first, "second_": model.second or model.first}
        for prefix, tower in towers.items():
            body = getattr(tower, "body", None)
            if isinstance(body, Model) and f"{prefix}ids" in batch:
                yield f"{prefix}ids", body.config.vocab_size, "tokens"
        return
    if not isinstance(model, Model):
        return
    target = target_vocabulary(model)
    yield "ids", target, "tokens"
    if "source_ids" in batch:
        yield "source_ids", model.config.vocab_size, "tokens"
    num_types: int = getattr(model.config, "type_vocab_size", 0)
    if "token_types" in batch and num_types:
        yield "token_types", num_types, "token types"
    if "labels" in batch and not batch["labels"].is_floating_point():
        is_lm = isinstance(model, heads.CausalLM | Seq2SeqLM | encoder_heads.MaskedLM)
        yield (
            ("labels", target, "tokens")
            if is_lm
            else ("labels", model.config.num_labels, "classes")
        )
    if "start" in batch:
        yield from ((name, batch["ids"].shape[1], "places") for name in ("start", "end"))


def target_vocabulary(model: Model) -> int:
    size: int = getattr(model.config, "target_vocab_size", model.config.vocab_size)
    return size


def _check_range(name: str, numbers: Tensor, size: int, of: str) -> None:
    is_wrong = (numbers < 0) | (numbers >= size)
    if name == "labels":
        is_wrong &= numbers != IGNORED
    if is_wrong.any():
        first = int(numbers[is_wrong][0])
        raise TrainingError(
            f"{name} of the first batch hold {first}, and the model has {size} {of}, 0 to "
            f"{size - 1}; the data was made for another model: tokenize it again, or give the "
            "model's config the size that it needs"
        )


def _check_next_tokens(batch: Batch) -> None:
    """What a decoder is to say at a place is what it reads at the next. (The last target of a row
    stands before padding, or at the row's end: it cannot be looked up.)"""
    ids_BT, labels_BT = batch["ids"], batch["labels"]
    is_target_BT = labels_BT != IGNORED
    is_known_BT = is_target_BT[:, :-1] & is_target_BT[:, 1:]
    is_wrong_BT = is_known_BT & (labels_BT[:, :-1] != ids_BT[:, 1:])
    if is_wrong_BT.any():
        row, place = is_wrong_BT.nonzero()[0].tolist()
        raise TrainingError(
            f"row {row} of the first batch has the label {int(labels_BT[row, place])} at place "
            f"{place}, and the next token is {int(ids_BT[row, place + 1])}: labels are shuffled, "
            f"or not moved by one; make them the ids one place later ({SWITCH})"
        )
    if "documents" in batch:
        _check_documents(batch["documents"], is_target_BT)


def _check_documents(documents_BT: Tensor, is_target_BT: Tensor) -> None:
    here_BT, next_BT = documents_BT[:, :-1], documents_BT[:, 1:]
    is_wrong_BT = is_target_BT[:, :-1] & (here_BT != next_BT) & (next_BT >= 0)
    if is_wrong_BT.any():
        row, place = is_wrong_BT.nonzero()[0].tolist()
        raise TrainingError(
            f"row {row} of the first batch has a label at place {place}, the last of its document: "
            f"the next token is another document's; its label must be {IGNORED} ({SWITCH})"
        )


def _check_kept_tokens(objective: MaskedLM, batch: Batch) -> None:
    """Of the chosen tokens that are no mask, a known share stays: there id and label are equal."""
    config = objective.config
    kept_share = 1 - config.mask_share - config.random_share
    if kept_share < 1e-6:
        return
    expected = kept_share / (kept_share + config.random_share)
    is_shown_BT = (batch["labels"] != IGNORED) & (batch["ids"] != objective.mask_id)
    num_shown = int(is_shown_BT.sum())
    num_kept = int((is_shown_BT & (batch["ids"] == batch["labels"])).sum())
    if num_shown * expected >= 15 and num_kept < num_shown * expected / 5:
        raise TrainingError(
            f"of {num_shown} chosen tokens that are not masked, {num_kept} are their own labels; "
            f"about {round(num_shown * expected)} should be: labels are shuffled; make them the "
            f"ids before masking ({SWITCH})"
        )


# -- the weights


def check_tied(model: nn.Module) -> None:
    """What the config ties must be one tensor: of two, each learns half, and one is not saved."""
    if not isinstance(model, Model) or not model.config.tie_word_embeddings:
        return
    embedding = _module_at(model, "body.embedding")
    of_target = _module_at(model, "body.target_embedding")
    if of_target is not None and model.config.share_embeddings:
        _check_same("body.target_embedding", of_target, "body.embedding", embedding)
    head = _module_at(model, "lm_head")
    if head is not None and of_target is not None:
        _check_same("lm_head", head, "body.target_embedding", of_target)
    elif head is not None:
        _check_same("lm_head", head, "body.embedding", embedding)


def _module_at(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _check_same(name: str, one: nn.Module, other_name: str, other: nn.Module | None) -> None:
    """Of modules that hold a weight, or were put around one that does."""
    if getattr(one, "weight", one) is not getattr(other, "weight", other):
        raise TrainingError(
            f"config.json ties the word embeddings, but {name} and {other_name} have a weight "
            "each; put the same module in both places, or set tie_word_embeddings to false"
        )


# -- the loss


def check_first_loss(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    sums: Mapping[str, Tensor],
    counts: Mapping[str, int],
    *,
    is_fresh: bool,
) -> None:
    """Of each term whose first value is known (`FIRST_LOSSES`). A model that was loaded may be
    better than a guess; where it is loaded head and all (`LOADED_WHOLE`), it must not be worse."""
    for name in objective.weights:
        if not counts[name]:
            continue
        loss = float(sums[name].detach()) / counts[name]
        if not math.isfinite(loss):
            raise TrainingError(
                f"the first {name} loss is {loss}: numbers overflow; train in bf16 or fp32, and "
                "look whether the loaded weights are finite"
            )
        if name == "dpo" and isinstance(objective, DPO):
            near = NEAR if "reference" in batch else EXACT
            _check_exact(loss, objective.first_loss, near)
        if name == "sampler_gap":
            _check_sampler(loss)
        if name in FIRST_LOSSES and (is_fresh or name in LOADED_WHOLE):
            guess = FIRST_LOSSES[name](model, batch)
            _check_guess(name, loss, guess, is_fresh=is_fresh)


class Guess(NamedTuple):
    """The mean loss of a model that guesses, what that is in words, and how much less and more
    is near enough."""

    loss: float
    words: str
    less: float
    more: float


def _check_guess(name: str, loss: float, guess: Guess, *, is_fresh: bool) -> None:
    guessed = f"{guess.words} = {guess.loss:.3f}"
    shown = f"the first {name} loss is {loss:.3f}, and that of a guess {guessed}"
    if loss > guess.loss + guess.more:
        cause = (
            "a fresh model cannot be that wrong: look at initializer_range, and whether the "
            "model's size of vocabulary is the tokenizer's"
            if is_fresh
            else "a trained model must not be worse: labels are shuffled, or the ids are another "
            "tokenizer's; compare it with the one that the model came with"
        )
        raise TrainingError(f"{shown}: {cause} ({SWITCH})")
    if is_fresh and loss < guess.loss - guess.less:
        raise TrainingError(
            f"{shown}: a fresh model cannot know more, unless it sees the answers: look whether "
            f"labels are among what the model reads ({SWITCH})"
        )


def _check_exact(loss: float, expected: float, near: float) -> None:
    """Policy and reference begin as one model, so the first loss is no guess."""
    if abs(loss - expected) > near * max(1.0, expected):
        raise TrainingError(
            f"the first dpo loss is {loss:.5f}; while policy and reference are the same model it "
            f"is {expected:.5f}: objective.reference is another model than the one that training "
            f"begins with, or reads other ids; if that is meant: {SWITCH}"
        )


def _check_sampler(gap: float) -> None:
    """What is learned from must have been sampled by the model that learns."""
    if gap > MOST_GAP:
        raise TrainingError(
            f"log-probabilities are {gap:.3f} nats a token off the sampler's: rollouts "
            "come from another distribution than the one that is trained (other weights, another "
            f"temperature, a cut vocabulary, low precision); train in bf16 or fp32 ({SWITCH})"
        )


def _near(model: nn.Module, loss: float, words: str) -> Guess:
    """See the module's text."""
    assert isinstance(model, Model)
    tolerance = SLACK + model.config.hidden_size * USUAL_STD**2
    starts_wild = isinstance(model.config, T5Config)
    return Guess(loss, words, SLACK, math.inf if starts_wild else tolerance)


def _of_vocabulary(model: nn.Module, batch: Batch) -> Guess:
    assert isinstance(model, Model)
    size = target_vocabulary(model)
    return _near(model, math.log(size), f"ln {size}")


def _of_two(model: nn.Module, batch: Batch) -> Guess:
    return _near(model, math.log(2), "ln 2")


def _of_classes(model: nn.Module, batch: Batch) -> Guess:
    if batch["labels"].is_floating_point():  # each class by itself
        return _of_two(model, batch)
    assert isinstance(model, Model)
    size = model.config.num_labels
    return _near(model, math.log(size), f"ln {size}")


def _of_places(model: nn.Module, batch: Batch) -> Guess:
    lengths_B = batch["valid"].sum(dim=1).float()
    return _near(model, float(lengths_B.log().mean()), "ln T")


def _of_pairs(model: nn.Module, batch: Batch) -> Guess:
    """Two fresh towers know nothing of each other: their vectors of width E have cosines of
    variance 1 / E at most, which the scale s multiplies by s². (Measured from E = 16 to 256: within
    these bounds.) Of one tower for both sides nothing is known: the two may share words."""
    assert isinstance(model, TwoTowers)
    size = num_pairs(batch) * world_size()
    near = SLACK + float(model.scale().detach()) ** 2 / 2 / _width(model)
    near = math.inf if model.second is None else near
    return Guess(math.log(size), f"ln {size}", near, near)


def _width(model: TwoTowers) -> int:
    """Of the shared space, where a tower tells it; else that of a single number."""
    projection = getattr(model.first, "projection", None)
    body = getattr(model.first, "body", None)
    if isinstance(projection, nn.Linear):
        return projection.out_features
    return body.config.hidden_size if isinstance(body, Model) else 1


FIRST_LOSSES: dict[str, Callable[[nn.Module, Batch], Guess]] = {
    "causal_lm": _of_vocabulary,
    "masked_lm": _of_vocabulary,
    "span_corruption": _of_vocabulary,
    "next_sentence": _of_two,
    "classification": _of_classes,
    "token_classification": _of_classes,
    "answer_span": _of_places,
    "info_nce": _of_pairs,
    "bradley_terry": _of_two,
}
"""By term. An objective that knows what its loss must begin with adds it here."""
LOADED_WHOLE = {"causal_lm", "masked_lm", "span_corruption"}
