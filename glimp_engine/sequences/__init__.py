"""Requests and the lives of their sequences, pages, and which sequences run next. Pure: integers and text, no torch.

It may import `text` and what lies below. `scheduler.py` is the policy, `page_table.py` what two models share, and
`sequence.py` one life, made of the parts beside it.
"""

from glimp_engine.sequences.acceptance import Acceptance
from glimp_engine.sequences.awaited import Use
from glimp_engine.sequences.launches import Launches
from glimp_engine.sequences.pages import PagePool
from glimp_engine.sequences.plans import Plan, Work
from glimp_engine.sequences.prompts import Prompt, check_type, list_prompts, make_streams, one_for_each, read_prompt
from glimp_engine.sequences.proposing import Proposing
from glimp_engine.sequences.request import PreparedRequest, make_request
from glimp_engine.sequences.rows import Row, rows_of
from glimp_engine.sequences.samples import SampledToken
from glimp_engine.sequences.scheduler import Scheduler, SequenceError
from glimp_engine.sequences.sequence import Sequence
from glimp_engine.sequences.streams import Dictionary
from glimp_engine.sequences.tick_times import TickTimes
from glimp_engine.sequences.token_stream import Outcome
from glimp_engine.sequences.transcript import Voice

__all__ = [
    "Acceptance",
    "Dictionary",
    "Launches",
    "Outcome",
    "PagePool",
    "Plan",
    "PreparedRequest",
    "Prompt",
    "Proposing",
    "Row",
    "SampledToken",
    "Scheduler",
    "Sequence",
    "SequenceError",
    "TickTimes",
    "Use",
    "Voice",
    "Work",
    "check_type",
    "list_prompts",
    "make_request",
    "make_streams",
    "one_for_each",
    "read_prompt",
    "rows_of",
]
