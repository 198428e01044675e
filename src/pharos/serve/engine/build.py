"""From a model's folder to an engine."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from pharos.core import ModelError
from pharos.data.tokenizer import Tokenizer
from pharos.models.heads import CausalLM
from pharos.serve.engine.adapters import AdapterRegistry
from pharos.serve.engine.block_pool import BlockPool
from pharos.serve.engine.engine import Engine
from pharos.serve.engine.grammar import GrammarCompiler
from pharos.serve.engine.paged_kv import PagedKV, free_memory, num_blocks_in
from pharos.serve.engine.runner import Pooling, Runner
from pharos.serve.engine.scheduler import Scheduler, SchedulerConfig
from pharos.serve.engine.speculation import Speculation
from pharos.serve.local import DType, LocalModel, Quantization, load_local

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """Keys and values are kept in `num_blocks` blocks of `block_size` tokens (None: as many as
    there is memory for, and as sequences could fill), and in `num_host_blocks` of the host's memory
    when those are wanted for others. `dtype`, `device` and `quantization` are those of
    `load_local`."""

    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    block_size: int = 16
    num_blocks: int | None = None
    num_host_blocks: int = 0
    prefix_cache: bool = True
    dtype: DType = "auto"
    device: str = "auto"
    quantization: Quantization | None = None
    pooling: Pooling = "last"


def build_engine(name: str | Path, config: EngineConfig) -> Engine:
    """An engine over the model of that name (see `models.resolve.find_model`). Raises ModelError
    for what is not a decoder, and ValueError for what does not fit the model or the memory."""
    loaded = load_local(
        name, dtype=config.dtype, device=config.device, quantization=config.quantization
    )
    if not isinstance(loaded, LocalModel):
        raise ModelError(
            f"{loaded.name} is an encoder-decoder, and the engine is for decoders; run it with "
            "`pharos generate`"
        )
    return engine_over(loaded.model, loaded.tokenizer, config)


def engine_over(
    model: CausalLM,
    tokenizer: Tokenizer | None,
    config: EngineConfig,
    *,
    speculation: Speculation | None = None,
) -> Engine:
    """An engine over a model that is loaded. Without a tokenizer, its outputs have no text."""
    scheduling = replace(config.scheduler, max_model_len=_max_len(model, config.scheduler))
    num_blocks = config.num_blocks or _num_blocks(model, scheduling, config)
    kv = PagedKV(
        model.body.attention_shapes(),
        num_blocks=num_blocks,
        block_size=config.block_size,
        num_host_blocks=config.num_host_blocks,
        dtype=model.dtype,
        device=model.body.embedding.weight.device,
    )
    pool = BlockPool(
        num_blocks,
        config.block_size,
        num_host_blocks=config.num_host_blocks,
        prefix_cache=config.prefix_cache,
    )
    return Engine(
        Scheduler(scheduling, pool),
        Runner(model, kv, pooling=config.pooling, adapters=AdapterRegistry(model)),
        tokenizer=tokenizer,
        compiler=_compiler(model, tokenizer),
        speculation=speculation,
    )


def _max_len(model: CausalLM, config: SchedulerConfig) -> int | None:
    """The longest sequence: what was asked for, else what the model was made for."""
    most = model.body.max_positions
    asked = config.max_model_len
    if asked is None:
        made_for: int | None = getattr(model.config, "max_position_embeddings", None)
        return most or made_for
    if most is not None and asked > most:
        raise ValueError(
            f"max_model_len is {asked}; the model has {most} positions, and cannot read further"
        )
    return asked


def _num_blocks(model: CausalLM, scheduling: SchedulerConfig, config: EngineConfig) -> int:
    """As many as the memory has room for, but no more than sequences could fill."""
    size = config.block_size
    available = num_blocks_in(
        free_memory(model.body.embedding.weight.device),
        model.body.attention_shapes(),
        block_size=size,
        max_tokens=config.scheduler.max_model_len or size,
        dtype=model.dtype,
    )
    longest = scheduling.max_model_len
    if longest is None:
        return available
    return min(available, scheduling.max_num_seqs * -(-longest // size))


def _compiler(model: CausalLM, tokenizer: Tokenizer | None) -> GrammarCompiler | None:
    if tokenizer is None:
        return None
    try:
        return GrammarCompiler(tokenizer, vocab_size=model.config.vocab_size)
    except ModelError as error:
        log.warning("requests with a grammar will be refused: %s", error)
        return None
