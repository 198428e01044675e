"""From a model's folder to an engine."""

import logging
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from pharos.core import ModelError
from pharos.data.tokenizer import Tokenizer
from pharos.models.heads import CausalLM
from pharos.serve.engine.adapters import AdapterRegistry
from pharos.serve.engine.block_pool import BlockPool
from pharos.serve.engine.decode_graphs import DecodeGraphs, GraphSizes, obstacle
from pharos.serve.engine.draft_model import DraftModelProposer
from pharos.serve.engine.engine import Engine
from pharos.serve.engine.followers import Followers, agree_on_least
from pharos.serve.engine.grammar import GrammarCompiler
from pharos.serve.engine.paged_kv import GIB, PagedKV, free_memory, num_blocks_in
from pharos.serve.engine.runner import Pooling, Runner
from pharos.serve.engine.scheduler import Scheduler, SchedulerConfig
from pharos.serve.engine.speculation import AdaptiveLength, NgramProposer, Speculation
from pharos.serve.engine.tensor_parallel import Share, own_shapes
from pharos.serve.local import DType, LocalModel, Quantization, load_local

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeculationConfig:
    """Drafts are made by a small model of the same vocabulary, or (None) of what stands in the text
    already: at most `max_drafts` a step for each of at most `max_batch` sequences, and only where
    they pay."""

    draft_model: str | Path | None = None
    max_drafts: int = 6
    max_batch: int = 8

    def __post_init__(self) -> None:
        if self.max_drafts < 1 or self.max_batch < 1:
            raise ValueError(
                f"max_drafts is {self.max_drafts} and max_batch {self.max_batch}; each must be at "
                "least 1: without speculation, nothing is drafted"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """Keys and values are kept in `num_blocks` blocks of `block_size` tokens (None: as many as
    there is memory for, and as sequences could fill), and in `num_host_blocks` of the host's memory
    when those are wanted for others. `dtype`, `device` and `quantization` are those of
    `load_local`. The model is split over `tensor_parallel` processes, each with a GPU of its own if
    there are any. On a GPU, steps that write are replayed as `cuda_graphs`, where the model's can
    be."""

    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    block_size: int = 16
    num_blocks: int | None = None
    num_host_blocks: int = 0
    prefix_cache: bool = True
    dtype: DType = "auto"
    device: str = "auto"
    quantization: Quantization | None = None
    pooling: Pooling = "last"
    tensor_parallel: int = 1
    cuda_graphs: bool = True
    speculation: SpeculationConfig | None = None


def build_engine(name: str | Path, config: EngineConfig) -> Engine:
    """An engine over the model of that name (see `models.resolve.find_model`). Raises ModelError
    for what is not a decoder, and ValueError for what does not fit the model or the memory."""
    if config.tensor_parallel == 1:
        return _engine(name, config, None)
    followers = Followers.start(partial(build_follower, name, config), config.tensor_parallel)
    try:
        with followers.together():
            return _engine(name, config, followers)
    except Exception:
        followers.stop()
        raise


def build_follower(name: str | Path, config: EngineConfig, share: Share) -> Runner:
    """What another process than the engine's has of the model."""
    model = _load(name, config, share).model
    return Runner(model, _make_kv(model, config), pooling=config.pooling)


def _engine(name: str | Path, config: EngineConfig, followers: Followers | None) -> Engine:
    loaded = _load(name, config, Share(0, config.tensor_parallel))
    return engine_over(
        loaded.model,
        loaded.tokenizer,
        config,
        draft_model=_load_draft_model(config),
        followers=followers,
    )


def _load(name: str | Path, config: EngineConfig, share: Share) -> LocalModel:
    loaded = load_local(
        name,
        dtype=config.dtype,
        device=_own_device(config.device, share),
        quantization=config.quantization,
        share=share,
    )
    if not isinstance(loaded, LocalModel):
        raise ModelError(
            f"{loaded.name} is an encoder-decoder, and the engine is for decoders; run it with "
            "`pharos generate`"
        )
    return loaded


def _load_draft_model(config: EngineConfig) -> CausalLM | None:
    """It is not split: on several GPUs, the first has all of it."""
    if config.speculation is None or config.speculation.draft_model is None:
        return None
    device = _own_device(config.device, Share(0, config.tensor_parallel))
    loaded = load_local(config.speculation.draft_model, dtype=config.dtype, device=device)
    if not isinstance(loaded, LocalModel):
        raise ModelError(f"{loaded.name} is an encoder-decoder; drafts are made by a decoder")
    return loaded.model


def _own_device(device: str, share: Share) -> str:
    """Of several GPUs, each rank has one."""
    num_gpus = torch.cuda.device_count()
    if share.size == 1 or device not in ("auto", "cuda") or (device == "auto" and not num_gpus):
        return device
    if num_gpus < share.size:
        raise ValueError(
            f"tensor_parallel is {share.size}, and there are {num_gpus} GPUs; give each process "
            "one, or choose the device cpu"
        )
    return f"cuda:{share.rank}"


def engine_over(
    model: CausalLM,
    tokenizer: Tokenizer | None,
    config: EngineConfig,
    *,
    draft_model: CausalLM | None = None,
    speculation: Speculation | None = None,
    followers: Followers | None = None,
    graphs: GraphSizes | None = None,
) -> Engine:
    """An engine over a model that is loaded. Without a tokenizer, its outputs have no text. A split
    model has its other parts in `followers`, and takes no adapters. `speculation` and `graphs`
    stand in for what the config asks for."""
    graphs = graphs or _graph_sizes(model, config)
    kv = _make_kv(model, config, draft_model, graphs)
    pool = BlockPool(
        kv.num_blocks,
        config.block_size,
        num_host_blocks=config.num_host_blocks,
        prefix_cache=config.prefix_cache,
    )
    return Engine(
        Scheduler(_scheduling(model, config), pool),
        Runner(
            model,
            kv,
            pooling=config.pooling,
            adapters=AdapterRegistry(model) if followers is None else None,
            followers=followers,
            graphs=None if graphs is None else _recorded(model, kv, graphs),
        ),
        tokenizer=tokenizer,
        compiler=_compiler(model, tokenizer),
        speculation=speculation or _speculation(model, draft_model, config, kv),
    )


def _speculation(
    model: CausalLM, draft_model: CausalLM | None, config: EngineConfig, kv: PagedKV
) -> Speculation | None:
    """What guesses: a draft model keeps keys of its own, in as many blocks."""
    asked = config.speculation
    if asked is None:
        return None
    lengths = AdaptiveLength(most=asked.max_drafts, max_batch=asked.max_batch)
    if draft_model is None:
        return Speculation(NgramProposer(), lengths)
    own_kv = PagedKV(
        draft_model.body.attention_shapes(),
        num_blocks=kv.num_blocks,
        block_size=kv.block_size,
        dtype=draft_model.dtype,
        device=kv.device,
    )
    runner = Runner(draft_model, own_kv)
    return Speculation(DraftModelProposer(runner, vocab_size=model.config.vocab_size), lengths)


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


def _graph_sizes(model: CausalLM, config: EngineConfig) -> GraphSizes | None:
    """None where there are to be no graphs."""
    is_on_gpu = model.body.embedding.weight.is_cuda
    if not (config.cuda_graphs and is_on_gpu and config.tensor_parallel == 1):
        return None
    reason = obstacle(model)
    if reason is not None:
        log.info("steps are not recorded as CUDA graphs: %s", reason)
        return None
    scheduling = _scheduling(model, config)
    return GraphSizes.up_to(scheduling.max_num_seqs, max_len=scheduling.max_model_len)


def _scheduling(model: CausalLM, config: EngineConfig) -> SchedulerConfig:
    return replace(config.scheduler, max_model_len=_max_len(model, config.scheduler))


def _recorded(model: CausalLM, kv: PagedKV, sizes: GraphSizes) -> DecodeGraphs | None:
    """None where the device, or the compiler of a kernel, refuses: steps are as ever then, and the
    memory that was set aside stays so."""
    try:
        return DecodeGraphs(model, kv, sizes)
    except Exception as error:
        log.warning(
            "steps are not recorded as CUDA graphs, and go on without them (--no-cuda-graphs does "
            "not try, and sets no memory aside): %s",
            error,
            exc_info=True,
        )
        return None


def _make_kv(
    model: CausalLM,
    config: EngineConfig,
    draft_model: CausalLM | None = None,
    graphs: GraphSizes | None = None,
) -> PagedKV:
    """Of a split model, the keys of this process's heads; equally many blocks everywhere. The keys
    of a draft model find room beside them, and so do graphs."""
    num_blocks = config.num_blocks
    if num_blocks is None:
        num_blocks = _num_blocks(model, config, draft_model, graphs)
    if config.tensor_parallel > 1:
        num_blocks = agree_on_least(num_blocks)
    return PagedKV(
        own_shapes(model, config.tensor_parallel),
        num_blocks=num_blocks,
        block_size=config.block_size,
        num_host_blocks=config.num_host_blocks,
        with_scratch=graphs is not None,
        dtype=model.dtype,
        device=model.body.embedding.weight.device,
    )


def _num_blocks(
    model: CausalLM,
    config: EngineConfig,
    draft_model: CausalLM | None,
    graphs: GraphSizes | None,
) -> int:
    """As many as the memory has room for, but no more than sequences could fill."""
    size = config.block_size
    beside = [] if draft_model is None else draft_model.body.attention_shapes()
    available = num_blocks_in(
        _kv_budget(model, config, graphs),
        own_shapes(model, config.tensor_parallel) + beside,
        block_size=size,
        max_tokens=config.scheduler.max_model_len or size,
        dtype=model.dtype,
    )
    scheduling = _scheduling(model, config)
    longest = scheduling.max_model_len
    if longest is None:
        return available
    return min(available, scheduling.max_num_seqs * -(-longest // size))


def _kv_budget(model: CausalLM, config: EngineConfig, graphs: GraphSizes | None) -> int:
    """The bytes that keys and values may take. Processes on CPUs share one machine's memory."""
    device = model.body.embedding.weight.device
    sharing = 1 if device.type == "cuda" else config.tensor_parallel
    free = free_memory(device) // sharing
    taken = 0 if graphs is None else graphs.num_bytes(model, config.block_size)
    if taken > free:
        raise ValueError(
            f"CUDA graphs take {taken / GIB:.2f} GiB, and {free / GIB:.2f} GiB are free: switch "
            "them off (--no-cuda-graphs), or set max_model_len or max_num_seqs lower"
        )
    return free - taken


def _compiler(model: CausalLM, tokenizer: Tokenizer | None) -> GrammarCompiler | None:
    if tokenizer is None:
        return None
    try:
        return GrammarCompiler(tokenizer, vocab_size=model.config.vocab_size)
    except ModelError as error:
        log.warning("requests with a grammar will be refused: %s", error)
        return None
