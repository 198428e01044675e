"""Plans before money is spent: how large a run should be, where it fits, what it costs to train and
to serve. Arithmetic only; nothing here imports torch."""

from pharos.train.planner.budget import Budget, Given, Rates, plan_budget
from pharos.train.planner.devices import DEVICES, Device, device_named
from pharos.train.planner.memory import Job, MemoryUse, Mesh, memory_use
from pharos.train.planner.mesh import Machine, Placement, recommend
from pharos.train.planner.scaling import HOFFMANN, REFIT, Optimum, ScalingLaw, kaplan, law_named
from pharos.train.planner.serving import (
    Load,
    ServingPlan,
    ServingSetup,
    plan_serving,
    plans_by_gpus,
)
from pharos.train.planner.shapes import SHAPES, ModelShape, assumed_shape, known_shape
from pharos.train.planner.training import Assumptions, TrainingPlan, plan_training

__all__ = [
    "DEVICES",
    "HOFFMANN",
    "REFIT",
    "SHAPES",
    "Assumptions",
    "Budget",
    "Device",
    "Given",
    "Job",
    "Load",
    "Machine",
    "MemoryUse",
    "Mesh",
    "ModelShape",
    "Optimum",
    "Placement",
    "Rates",
    "ScalingLaw",
    "ServingPlan",
    "ServingSetup",
    "TrainingPlan",
    "assumed_shape",
    "device_named",
    "kaplan",
    "known_shape",
    "law_named",
    "memory_use",
    "plan_budget",
    "plan_serving",
    "plan_training",
    "plans_by_gpus",
    "recommend",
]
