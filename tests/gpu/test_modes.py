"""Only products and attention know of the batch-invariant mode: all other ops are the same code in both.

So these have their tests in one mode (`ops`), and products and attention in each (`ops_of_a_mode`).
"""

import inspect

from glimp_engine.kernels.gpu.ops import TritonOps

OF_A_MODE = {"linear", "linear_silu_mul", "paged_attention"}


def test_which_ops_know_of_the_mode():
    ops = {name: op for name, op in vars(TritonOps).items() if inspect.isfunction(op) and name != "__init__"}
    modes = {"batch_invariant", "_flash", "_num_processors", "linear"}  # what depends on it, and who calls what does
    knowing = {name for name, op in ops.items() if modes & set(op.__code__.co_names)}
    assert knowing == OF_A_MODE
    assert {"rms_norm", "rope_and_store", "silu_mul", "sample"} <= ops.keys() - knowing
