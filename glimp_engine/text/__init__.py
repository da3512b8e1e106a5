"""From text to token ids and back: tokenizers, chat templates, detokenizing, boundaries, pairs of vocabularies.

It may import `checkpoints` and what lies below.
"""

from glimp_engine.text.boundaries import Boundary, BoundaryTable
from glimp_engine.text.detokenizer import StopStrings, TextWithout
from glimp_engine.text.digits import digit_table
from glimp_engine.text.grammars import Grammar, GrammarReader, Grammars
from glimp_engine.text.messages import Chat
from glimp_engine.text.pairs import Pair, relate
from glimp_engine.text.thinking import MarkReader, ThinkingMarks
from glimp_engine.text.tokenizer import Text

__all__ = [
    "Boundary",
    "BoundaryTable",
    "Chat",
    "Grammar",
    "GrammarReader",
    "Grammars",
    "MarkReader",
    "Pair",
    "StopStrings",
    "Text",
    "TextWithout",
    "ThinkingMarks",
    "digit_table",
    "relate",
]
