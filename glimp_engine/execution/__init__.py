"""A plan becomes tensors and runs on a device: batches, runners, graphs, ticks that run ahead of the host.

It may import `models`, `sequences` and what lies below.
"""

from glimp_engine.execution.batches import Batches
from glimp_engine.execution.graphs import CudaGraphs, GraphRunner, PlainTicks, Recorder
from glimp_engine.execution.native_runner import NativeRunner
from glimp_engine.execution.runner import Forward, ModelRunner, Ticks

__all__ = [
    "Batches",
    "CudaGraphs",
    "Forward",
    "GraphRunner",
    "ModelRunner",
    "NativeRunner",
    "PlainTicks",
    "Recorder",
    "Ticks",
]
