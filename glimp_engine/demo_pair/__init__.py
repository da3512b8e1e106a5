"""The demo pair: two tiny models that add up trips over remembered roads. examples/demo_pair/ made them."""

from pathlib import Path

__all__ = ["LARGE", "ROUTING", "SMALL", "TEST", "VALIDATION"]

HERE = Path(__file__).parent
SMALL, LARGE = HERE / "small", HERE / "large"  # checkpoints
VALIDATION, TEST = HERE / "validation.jsonl", HERE / "test.jsonl"  # problems that neither model has read
ROUTING = HERE / "routing.json"  # the threshold, chosen on the validation problems
