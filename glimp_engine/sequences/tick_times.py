"""How long a model's ticks take, by their tokens: measured as the engine works, and guessed where it has not yet."""

import math
from bisect import bisect_left, insort

__all__ = ["TickTimes"]

EXACT = 32  # up to so many tokens each number has a time of its own, above it those within 1/8 share one
FIRST_SLOPE = 0.03  # of a token's time, that one more is thought to cost before it has been tried
NEWEST = 0.1  # the weight of the last measurement in a mean
LARGEST_STEP = 2.0  # of a mean that is known well: what takes longer was held up by something else


class TickTimes:
    """Mean seconds of a tick, by model and number of tokens."""

    def __init__(self, forward_bytes: tuple[int, ...]) -> None:
        """forward_bytes: what a forward of one token reads, from which a model that has not run yet is judged."""
        self._forward_bytes = forward_bytes
        self._means: list[dict[int, tuple[float, int]]] = [{} for _ in forward_bytes]  # [model]: seconds, how many
        self._measured: list[list[int]] = [[] for _ in forward_bytes]  # the numbers of tokens, ascending

    def add(self, model: int, num_tokens: int, seconds: float) -> None:
        """A tick has taken so long."""
        key = rounded(num_tokens)
        mean, count = self._means[model].get(key, (seconds, 0))
        if count == 0:
            insort(self._measured[model], key)
        elif count > 3:
            seconds = min(seconds, mean * LARGEST_STEP)
        self._means[model][key] = mean + (seconds - mean) * max(NEWEST, 1 / (count + 1)), count + 1

    def of(self, model: int, num_tokens: int) -> float:
        """What a tick of so many tokens is expected to take."""
        measured, means = self._measured[model], self._means[model]
        if not measured:
            others = [other for other in range(len(self._means)) if self._measured[other]]
            unit = self.of(others[0], 1) / self._forward_bytes[others[0]] if others else 1e-10
            return unit * self._forward_bytes[model] * relative(num_tokens)
        place = bisect_left(measured, num_tokens)
        if place == len(measured):
            last = measured[-1]
            return means[last][0] * relative(num_tokens) / relative(last)
        above = measured[place]
        if above == num_tokens:
            return means[above][0]
        if place == 0:
            return means[above][0] * relative(num_tokens) / relative(above)
        below = measured[place - 1]
        share = (num_tokens - below) / (above - below)
        return means[below][0] * (1 - share) + means[above][0] * share


def relative(num_tokens: int) -> float:
    """A tick's time in terms of one token's, as it is guessed."""
    return 1 + FIRST_SLOPE * (num_tokens - 1)


def rounded(num_tokens: int) -> int:
    """The number of tokens that stands for this one."""
    if num_tokens <= EXACT:
        return num_tokens
    step = 1 << max(0, int(math.log2(num_tokens)) - 3)
    return num_tokens // step * step
