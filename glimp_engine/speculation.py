"""Whether, by whom and how far tokens are proposed to the model that writes."""

from dataclasses import dataclass

from glimp_engine.errors import ConfigError, check_integer
from glimp_engine.outputs import Proposer

__all__ = ["Speculation", "read_speculation"]

MAX_TOKENS = 64


@dataclass(frozen=True)
class Speculation:
    """Who may propose tokens to the model that writes, and how many at a time; no token ever changes with it.

    `small` is the small model, which proposes to the large one where both read one stream; `ngram` looks for what
    stands behind the last tokens elsewhere in the sequence. How many are proposed follows what they cost.

    Raises: ConfigError that names the field, the value and what is allowed.
    """

    proposers: tuple[str, ...] | list[str] = tuple(Proposer)
    max_tokens: int = 16

    def __post_init__(self) -> None:
        if not isinstance(self.proposers, (tuple, list)) or not set(self.proposers) <= set(Proposer):
            raise ConfigError(f"proposers is {self.proposers!r}; allowed: some of {', '.join(Proposer)}")
        object.__setattr__(self, "proposers", tuple(Proposer(each) for each in self.proposers))
        check_integer("max_tokens", self.max_tokens, 0, MAX_TOKENS)


def read_speculation(given: "str | Speculation") -> Speculation:
    """What `speculation` means: auto is all proposers, off is none.

    Raises: ConfigError when it is none of these.
    """
    if isinstance(given, Speculation):
        return given
    if given not in ("auto", "off"):
        raise ConfigError(f"speculation is {given!r}; allowed: auto, off, a Speculation")
    return Speculation() if given == "auto" else Speculation(proposers=(), max_tokens=0)
