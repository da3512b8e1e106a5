"""From text to token ids and back: tokenizers, chat templates, detokenizing, boundaries, pairs of vocabularies.

It may import `checkpoints` and what lies below.
"""

from glimp_engine.text.boundaries import Boundary, BoundaryTable
from glimp_engine.text.detokenizer import StopStrings
from glimp_engine.text.digits import digit_table
from glimp_engine.text.pairs import Pair, relate
from glimp_engine.text.tokenizer import Text

__all__ = [
    "Boundary",
    "BoundaryTable",
    "Pair",
    "StopStrings",
    "Text",
    "digit_table",
    "relate",
]
