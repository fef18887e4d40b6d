"""Predictions for many pictures by several processes, written so that a run that was killed continues."""

from .inputs import Inputs, read_inputs
from .job import Job
from .shards import Shard, Shards

__all__ = ["Inputs", "Job", "Shard", "Shards", "read_inputs"]
