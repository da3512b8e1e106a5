"""Whether, by whom and how far tokens are proposed to the model that writes."""

from dataclasses import dataclass

from glimp_engine.errors import ConfigError, check_integer, shown
from glimp_engine.outputs import Proposer

__all__ = ["SPECULATION_SPECS", "Speculation", "read_speculation"]

MAX_TOKENS = 64
SPECULATION_SPECS = (
    f"auto, off, or who proposes, of {', '.join(Proposer)}, joined by +, with :MAX_TOKENS behind, 1 to {MAX_TOKENS}, "
    f"if it's to be at most so many at a time, as {'+'.join(Proposer)}:4"
)


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
        if not isinstance(self.proposers, (tuple, list)) or any(each not in list(Proposer) for each in self.proposers):
            raise ConfigError(f"proposers is {self.proposers!r}; allowed: some of {', '.join(Proposer)}")
        object.__setattr__(self, "proposers", tuple(Proposer(each) for each in self.proposers))
        check_integer("max_tokens", self.max_tokens, 0, MAX_TOKENS)


def read_speculation(given: str | Speculation) -> Speculation:
    """What `speculation` means: auto is all proposers, off is none, a spec as small:4 names them.

    Raises: ConfigError when it is none of these.
    """
    if isinstance(given, Speculation):
        return given
    if given == "auto":
        return Speculation()
    if given == "off":
        return Speculation(proposers=(), max_tokens=0)
    names, colon, number = given.partition(":") if isinstance(given, str) else ("", "", "")
    proposers = names.split("+")
    is_number = number.isascii() and number.isdigit() and len(number) < 4 and 1 <= int(number) <= MAX_TOKENS
    if not set(proposers) <= set(Proposer) or len(set(proposers)) < len(proposers) or (colon and not is_number):
        raise ConfigError(f"speculation is {shown(given)}; allowed: {SPECULATION_SPECS}; or a Speculation")
    return Speculation(proposers, int(number)) if colon else Speculation(proposers)
