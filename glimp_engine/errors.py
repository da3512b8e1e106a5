"""Every error the engine raises. A message names the argument, what was found, and what is allowed."""

__all__ = ["CapacityError", "CheckpointError", "ConfigError", "GlimpError", "RequestError"]


class GlimpError(Exception):
    """The base of all errors of this package."""


class ConfigError(GlimpError, ValueError):
    """A bad argument: names it, what was found, and what is allowed."""


class CheckpointError(GlimpError):
    """A checkpoint that can't be read: file, tensor, expected and found."""


class CapacityError(GlimpError):
    """More was asked for than there is: asked and available, in tokens or bytes."""


class RequestError(GlimpError, ValueError):
    """One request's fault: only that request ends."""
