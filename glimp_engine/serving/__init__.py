"""Doors to one engine for many callers at once: asyncio tasks, and clients over HTTP.

It may import everything but `cli` and `evaluation`. `async_engine.py` is the thread that owns an engine; nothing here
changes what a request's tokens are.
"""

from glimp_engine.serving.async_engine import AsyncEngine, QueueFullError, RequestStream
from glimp_engine.serving.deltas import Delta, Piece

__all__ = ["AsyncEngine", "Delta", "Piece", "QueueFullError", "RequestStream"]
