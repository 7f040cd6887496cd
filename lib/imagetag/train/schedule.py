"""The learning rate of each step: warm-up, then constant, halved on plateaus, or along a cosine.

And the names of the optimizers that take it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

OptimizerName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["plateau", "cosine", "constant"]


@dataclass(frozen=True)
class Schedule:
    """A phase's learning rate, as a function of the step and of how often it was halved.

    Args:
        name: plateau halves the rate where validation stands still; cosine falls to zero over the
            phase's steps (Loshchilov and Hutter, "SGDR", 2017, without restarts).
        rate: after the warm-up.
        warmup: steps over which it rises evenly to that (Goyal et al., "Accurate, Large Minibatch
            SGD", 2017).
        steps: of the phase in all.

    """

    name: ScheduleName
    rate: float
    warmup: int
    steps: int

    def at(self, step: int, halvings: int = 0) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.rate * (step + 1) / (self.warmup + 1)
        if self.name == "cosine":
            done = (step - self.warmup) / max(self.steps - self.warmup, 1)
            return self.rate * (1 + math.cos(math.pi * min(done, 1))) / 2
        return self.rate * 0.5**halvings if self.name == "plateau" else self.rate
