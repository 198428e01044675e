"""A trace beside what `transformers` tells of itself (`output_attentions`, `output_hidden_states`).

Shapes: L layers, H heads, T tokens, K head width.
"""

from typing import Any

import pytest
import torch
from oracle import SIZES, VOCAB, Pair, assert_close, pair_of, random_ids, transformers
from torch import Tensor

from pharos.models.heads import CausalLM
from pharos.models.load import build_model
from pharos.models.trace import MOST_NEW, MOST_TRACED, Trace, trace

WIDER = {"initializer_range": 0.3}
LLAMA = transformers.LlamaConfig(
    **SIZES, **WIDER, intermediate_size=48, num_key_value_heads=2, max_position_embeddings=512
)
MISTRAL = transformers.MistralConfig(
    **SIZES, **WIDER, intermediate_size=48, num_key_value_heads=2, sliding_window=5
)
GPT2 = transformers.GPT2Config(
    vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, **WIDER
)
FALCON = transformers.FalconConfig(
    **SIZES | {"num_attention_heads": 8},
    **WIDER,
    alibi=True,
    parallel_attn=False,
    multi_query=False,
)
MIXTRAL = transformers.MixtralConfig(
    **SIZES, **WIDER, intermediate_size=48, num_key_value_heads=2, num_local_experts=4
)
CONFIGS = {
    "llama": LLAMA,
    "mistral, window of 5": MISTRAL,
    "gpt2": GPT2,
    "falcon, ALiBi": FALCON,
    "mixtral": MIXTRAL,
}


@pytest.fixture(params=CONFIGS, scope="module")
def pair(request: pytest.FixtureRequest) -> Pair:
    """Falcon's eager path adds ALiBi twice, in the reference."""
    config = CONFIGS[request.param]
    return pair_of(config, attention="sdpa" if config is FALCON else "eager")


def their_attention(pair: Pair, ids: Tensor) -> Tensor:
    """`[L, H, T, T]`, as the reference gives it, or (Falcon) from its queries and keys."""
    if pair.theirs.config.model_type != "falcon":
        layers = pair.theirs(ids, output_attentions=True).attentions
        return torch.stack([layer[0] for layer in layers])
    qkv: list[Tensor] = []
    for block in pair.theirs.transformer.h:
        linear = block.self_attention.query_key_value
        linear.register_forward_hook(lambda _, __, output: qkv.append(output[0]))
    pair.theirs(ids)
    places = torch.arange(ids.shape[1])
    distance = places - places[:, None]
    slopes = 0.5 ** torch.arange(1, 9)[:, None, None]  # of 8 heads
    found = []
    for qkv_TX in qkv:
        q_HTK, k_HTK, _ = qkv_TX.view(len(places), 8, 3, -1).permute(2, 1, 0, 3)
        scores_HTT = (q_HTK @ k_HTK.mT + slopes * distance) * q_HTK.shape[-1] ** -0.5
        found.append(scores_HTT.masked_fill(distance > 0, float("-inf")).softmax(-1))
    return torch.stack(found)


def trace_of(pair: Pair, ids: Tensor, **options: Any) -> Trace:
    model = pair.ours
    assert isinstance(model, CausalLM)
    return trace(model, ids[0].tolist(), **options)


def test_attention_is_what_transformers_says_it_is(pair: Pair) -> None:
    ids = random_ids(1, 20)
    assert_close(trace_of(pair, ids).attention_LHTT, their_attention(pair, ids))


def test_each_row_of_attention_sums_to_one_and_sees_no_future(pair: Pair) -> None:
    found = trace_of(pair, random_ids(1, 20))
    assert_close(found.attention_LHTT.sum(-1), torch.ones(found.before_LHT.shape))
    assert not found.attention_LHTT.triu(1).any()
    assert not found.before_LHT.any()


def test_the_last_layers_candidates_are_the_models_own(pair: Pair) -> None:
    ids = random_ids(1, 20)
    own = pair.ours(ids)[0].softmax(-1).topk(5)
    found = trace_of(pair, ids)
    assert torch.equal(found.candidates_NTC[-1], own.indices)
    assert_close(found.shares_NTC[-1], own.values)


def test_a_layers_candidates_are_its_states_through_the_last_norm_and_the_head(pair: Pair) -> None:
    ids = random_ids(1, 20)
    states = pair.theirs(ids, output_hidden_states=True).hidden_states
    found = trace_of(pair, ids, num_candidates=3)
    for place in (0, 1):
        logits = pair.ours.logits(pair.ours.body.norm(states[place][0]))
        assert_close(found.shares_NTC[place], logits.softmax(-1).topk(3).values)


def test_tracing_leaves_the_model_as_it_was(pair: Pair) -> None:
    ids = random_ids(1, 9)
    before = pair.ours(ids)
    trace_of(pair, ids)
    assert torch.equal(pair.ours(ids), before)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in pair.ours.modules())


def test_of_a_long_text_the_end_is_traced_and_what_it_owes_to_the_beginning_is_kept() -> None:
    pair, ids = pair_of(LLAMA), random_ids(1, MOST_TRACED + 50)
    theirs = their_attention(pair, ids)
    found = trace_of(pair, ids)
    assert found.first == 50
    assert found.ids == tuple(ids[0, 50:].tolist())
    assert_close(found.attention_LHTT, theirs[:, :, 50:, 50:])
    assert_close(found.before_LHT, theirs[:, :, 50:, :50].sum(-1))


def test_what_the_model_wrote_is_traced_with_the_prompt() -> None:
    pair, ids = pair_of(LLAMA), random_ids(1, 60)[0].tolist()
    found = trace(pair.ours, ids[:10], ids[10:])
    assert found.num_new == MOST_NEW
    assert found.ids == tuple(ids[: 10 + MOST_NEW])


def test_stages_have_the_shapes_of_the_model() -> None:
    stages = {stage.name: stage for stage in trace_of(pair_of(LLAMA), random_ids(1, 7)).stages}
    assert stages["embedding"].axes == (("tokens", 7), ("width", 32))
    assert stages["embedding"].num_parameters == 99 * 32
    assert stages["q"].axes == (("heads", 4), ("tokens", 7), ("width", 8))
    assert stages["k"].axes == (("key-value heads", 2), ("tokens", 7), ("width", 8))
    assert stages["weights"].axes == (("heads", 4), ("tokens", 7), ("tokens", 7))
    assert stages["blocks.0.mlp.up"].axes == (("tokens", 7), ("width", 48))
    assert stages["logits"].axes == (("tokens", 7), ("vocabulary", 99))
    names = list(stages)
    assert names[0] == "embedding" and names[-2:] == ["norm", "logits"]
    assert names.index("blocks.0.attention.query") < names.index("q") < names.index("weights")
    assert names.index("weights") < names.index("blocks.0.attention.out")


def test_the_tokens_that_experts_meet_are_counted() -> None:
    stages = trace_of(pair_of(MIXTRAL), random_ids(1, 7)).stages
    experts = [dict(stage.axes)["tokens"] for stage in stages if ".experts." in stage.name]
    assert sum(experts) == 2 * 7
    assert sum(stage.name == "blocks.0.mlp.router" for stage in stages) == 1


def test_a_prompt_that_cannot_be_read_is_refused() -> None:
    raw = {"model_type": "gpt2", "vocab_size": 9, "n_embd": 8, "n_layer": 1, "n_head": 2}
    model = build_model(raw | {"n_positions": 16}, "causal_lm")
    assert isinstance(model, CausalLM)
    with pytest.raises(ValueError, match="no tokens"):
        trace(model, [])
    with pytest.raises(ValueError, match="0 to 8: is this the model's tokenizer"):
        trace(model, [9])
    with pytest.raises(ValueError, match="16 positions"):
        trace(model, [1] * 17)
