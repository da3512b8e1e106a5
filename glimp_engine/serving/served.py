"""What all endpoints share: the engine, the names it's served under, and what is counted."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from glimp_engine.outputs import FinishReason
from glimp_engine.routing import Model
from glimp_engine.serving.async_engine import AsyncEngine, RequestStream
from glimp_engine.serving.deltas import Delta
from glimp_engine.serving.messages import MessageParts
from glimp_engine.serving.metrics import Metrics, RequestTimes
from glimp_engine.serving.names import ServedModels
from glimp_engine.serving.reasoning import ReasoningSplitter
from glimp_engine.serving.tool_calls import find_parser
from glimp_engine.text import Text

__all__ = ["Served"]


@dataclass
class Served:
    """An engine and its names."""

    engine: AsyncEngine
    models: ServedModels
    metrics: Metrics
    tool_parser: str | None = "auto"  # hermes, qwen3_coder; None: calls of tools come as text
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def max_model_len(self) -> int:
        """Tokens of a prompt and its answer."""
        return self.engine.engine.max_model_len

    def text(self, model: Model) -> Text:
        """The model's text."""
        return self.engine.engine.text(model)

    def text_named(self, name: str | None) -> Text:
        """The text of the model that a served name means: the large one's where it writes alone."""
        is_large = self.models.is_of_large(name)
        return self.text(Model.LARGE if is_large else Model.SMALL)

    def parts_of(self, stream: RequestStream, tools: list[Any] | None, tool_choice: str | None) -> MessageParts:
        """How the text of an answer becomes a message; calls are looked for where tools may be called."""
        text = self.text(Model.SMALL)
        has_calls = bool(tools) and tool_choice != "none"
        parser = find_parser(self.tool_parser, text.template_source) if has_calls else None
        splitter = ReasoningSplitter(text.marks, stream.is_thinking)
        return MessageParts(splitter, None if parser is None else parser(tools or ()))

    async def deltas(self, stream: RequestStream) -> AsyncIterator[Delta]:
        """A stream's deltas, counted."""
        times = RequestTimes(self.metrics)
        try:
            async for delta in stream:
                times.count(sum(len(piece.token_ids) for piece in delta.pieces))
                if delta.output is not None:
                    times.end()
                    self.metrics.count_output(delta.output)
                yield delta
        finally:
            if stream.output is None:  # whoever reads it has gone away
                self.metrics.count_end(FinishReason.ABORT)
