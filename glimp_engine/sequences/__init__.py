"""Requests and the lives of their sequences, pages, and which sequences run next. Pure: integers and text, no torch.

It may import `text` and what lies below. `scheduler.py` is the policy, `page_table.py` what two models share, and
`sequence.py` one life, made of the parts beside it.
"""

from glimp_engine.sequences.awaited import Use
from glimp_engine.sequences.drafts import NUM_SCORE_LOGPROBS
from glimp_engine.sequences.pages import PagePool
from glimp_engine.sequences.prompts import Prompt, check_type, list_prompts, make_streams, one_for_each, read_prompt
from glimp_engine.sequences.request import make_request
from glimp_engine.sequences.scheduler import Plan, Scheduler, SequenceError, Work
from glimp_engine.sequences.sequence import Sequence
from glimp_engine.sequences.streams import Dictionary
from glimp_engine.sequences.transcript import SampledToken, Voice

__all__ = [
    "NUM_SCORE_LOGPROBS",
    "Dictionary",
    "PagePool",
    "Plan",
    "Prompt",
    "SampledToken",
    "Scheduler",
    "Sequence",
    "SequenceError",
    "Use",
    "Voice",
    "Work",
    "check_type",
    "list_prompts",
    "make_request",
    "make_streams",
    "one_for_each",
    "read_prompt",
]
