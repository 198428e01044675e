"""Can a policy be raised from rewards alone, and how far does it go from where it began?

    python benchmarks/alignment.py            # three seeds, PPO and GRPO
    python benchmarks/alignment.py --seeds 1 --json alignment.json

A small decoder learns to add two digits from a teacher that errs more often than not: so it knows
the right answers, and mostly says others. PPO and GRPO then see nothing but whether a sampled
answer is right. Base and final reward are means over samples of all problems, at the temperature
1; KL is from the base, in nats a completion.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import nn

from pharos.data.rows import Row
from pharos.models.heads import CausalLM
from pharos.models.load import new_model
from pharos.train.completions import completion_batch, log_probs_of
from pharos.train.loop import Trainer
from pharos.train.loop_config import LoopConfig
from pharos.train.optimizers import OptimizerConfig, make_optimizer
from pharos.train.reference import Reference
from pharos.train.rl.actor_critic import ActorCritic
from pharos.train.rl.grpo import GRPO, GRPOConfig
from pharos.train.rl.kl_control import KLConfig
from pharos.train.rl.on_policy import OnPolicy
from pharos.train.rl.ppo import PPO, PPOConfig
from pharos.train.rl.rewards import Completion
from pharos.train.rl.rollout import roll_out
from pharos.train.rl.rollouts import Rollouts
from pharos.train.schedules import Schedule, ScheduleConfig

PAD, BOS, EOS, PLUS, EQUALS, ZERO = range(6)
VOCAB_SIZE = ZERO + 10
MAX_TOKENS = 4
GOAL, MOST_KL = 0.9, 2.0
Algorithm = Literal["ppo", "grpo"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
BATCH = 128
OF_PPO = PPOConfig(
    max_new_tokens=MAX_TOKENS,
    epochs=4,
    value_weight=0.5,
    kl=KLConfig(coefficient=0.02, target=2.0, horizon=2000),
)
OF_GRPO = GRPOConfig(max_new_tokens=MAX_TOKENS, group_size=8, epochs=2, beta=0.02)


def digits(number: int) -> list[int]:
    return [ZERO + int(digit) for digit in str(number)]


def problem(a: int, b: int) -> list[int]:
    return [BOS, ZERO + a, PLUS, ZERO + b, EQUALS]


PROBLEMS = [(a, b) for a in range(10) for b in range(10)]
ROWS: list[Row] = [
    {"prompt_ids": np.array(problem(a, b)), "answer_ids": np.array([*digits(a + b), EOS])}
    for a, b in PROBLEMS
]


class Problems:
    """All of them, drawn again and again."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getitem__(self, number: int) -> Row:
        epoch, place = divmod(number, len(ROWS))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(ROWS))
        return ROWS[int(order[place])]


def is_right(completions: Sequence[Completion]) -> list[float]:
    return [float(list(c.ids) == c.prompt["answer_ids"].tolist()) for c in completions]


def base_model(seed: int, *, steps: int = 1000, errs: float = 0.6) -> CausalLM:
    """A decoder taught by a teacher that says something else in that share of cases."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    raw = {"model_type": "llama", "vocab_size": VOCAB_SIZE, "num_attention_heads": 4, **sizes}
    model = new_model(raw, "causal_lm", seed=seed)
    assert isinstance(model, CausalLM)
    draw = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        asked = [PROBLEMS[i] for i in draw.integers(len(PROBLEMS), size=64)]
        answers = [int(draw.integers(19)) if draw.random() < errs else a + b for a, b in asked]
        batch = completion_batch(
            [problem(a, b) for a, b in asked],
            [[*digits(answer), EOS] for answer in answers],
            pad_id=PAD,
        )
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        optimizer.zero_grad()
        loss = -log_probs_of(model, batch).sum() / len(asked)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


class Standing(NamedTuple):
    reward: float
    kl: float


@torch.no_grad()
def standing(policy: CausalLM, base: CausalLM, *, samples: int = 8, seed: int = 12345) -> Standing:
    """By sampling all problems, with seeds that training does not use."""
    rows = [row for row in ROWS for _ in range(samples)]
    seeds = np.random.default_rng(seed).integers(2**62, size=len(rows)).tolist()
    said = roll_out(
        policy.eval(), rows, max_tokens=MAX_TOKENS, seeds=seeds, eos_ids=[EOS], pad_id=PAD
    )
    log_ratio_BT = log_probs_of(policy, said.batch) - log_probs_of(base.eval(), said.batch)
    return Standing(
        float(np.mean(is_right(said.completions))), float(log_ratio_BT.sum(dim=1).mean())
    )


def trained(algorithm: Algorithm, base: CausalLM, *, seed: int, steps: int) -> CausalLM:
    policy, reference = deepcopy(base), Reference(deepcopy(base))
    objective: OnPolicy = GRPO(OF_GRPO, reference)
    model: nn.Module = policy
    if algorithm == "ppo":
        objective, model = PPO(OF_PPO, reference), ActorCritic(policy)
    rollouts = Rollouts(
        model,
        objective,
        Problems(seed),
        is_right,
        batch_size=BATCH,
        micro_batch_size=BATCH,
        eos_ids=[EOS],
        pad_id=PAD,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=model,
            objective=objective,
            optimizer=make_optimizer(OptimizerConfig(lr=1e-3, weight_decay=0.0), model),
            schedule=Schedule(ScheduleConfig(), steps=steps),
            config=LoopConfig(steps=steps, batch_size=BATCH),
            output=Path(folder),
            batches=rollouts.loader,
            carried=rollouts,
            seed=seed,
        ).run()
    return policy


@dataclass(frozen=True)
class Line:
    algorithm: Algorithm
    seed: int
    base: float
    final: float
    kl: float
    seconds: float

    @property
    def holds(self) -> bool:
        return self.base < 0.5 and self.final >= GOAL and self.kl <= MOST_KL


def measure(algorithm: Algorithm, base: CausalLM, *, seed: int, steps: int) -> Line:
    before = standing(base, base)
    started = time.perf_counter()
    policy = trained(algorithm, base, seed=seed, steps=steps)
    seconds = time.perf_counter() - started
    after = standing(policy, base)
    return Line(algorithm, seed, before.reward, after.reward, after.kl, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="PPO and GRPO on sums, from a poor teacher")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    print("algorithm  seed   base  final     KL  seconds")
    for seed in range(arguments.seeds):
        base = base_model(seed)
        for algorithm in ALGORITHMS:
            line = measure(algorithm, base, seed=seed, steps=arguments.steps)
            lines.append(line)
            print(
                f"{line.algorithm:9}  {line.seed:4}  {line.base:5.3f}  {line.final:5.3f}  "
                f"{line.kl:5.2f}  {line.seconds:7.1f}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps([vars(line) for line in lines], indent=2) + "\n")
    failed = [line for line in lines if not line.holds]
    goal = f"from below 0.5 to at least {GOAL} with a KL of at most {MOST_KL}"
    print(f"{len(lines) - len(failed)} of {len(lines)} runs go {goal}")


if __name__ == "__main__":
    main()
