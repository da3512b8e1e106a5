"""How long a model's ticks take, by their tokens: measured as the engine works, and guessed where it has not yet.

A machine has faster and slower minutes, and what is seldom done is seldom measured. So a time is a mean times a pace
that all means share: each tick says a little of both.
"""

import math
from bisect import bisect_left, insort

__all__ = ["TickTimes"]

EXACT = 32  # up to so many tokens each number has a time of its own, above it those within 1/8 share one
FIRST_SLOPE = 0.03  # of a token's time, that one more is thought to cost before it has been tried
NEWEST = 0.05  # the weight of the last measurement in a mean, in logarithms
NEWEST_PACE = 0.1  # ... and in the pace
LARGEST_SURPRISE = 2.0  # what takes longer was held up by something else


class TickTimes:
    """Mean seconds of a tick, by model and number of tokens."""

    def __init__(self, forward_bytes: tuple[int, ...]) -> None:
        """forward_bytes: what a forward of one token reads, from which a model that has not run yet is judged."""
        self._forward_bytes = forward_bytes
        self._pace = 1.0
        self._means: list[dict[int, tuple[float, int]]] = [{} for _ in forward_bytes]  # [model]: seconds, how many
        self._measured: list[list[int]] = [[] for _ in forward_bytes]  # the numbers of tokens, ascending
        self._means_in_launch: list[dict[int, tuple[float, int]]] = [{} for _ in forward_bytes]

    def add(self, model: int, num_tokens: int, seconds: float, is_in_launch: bool = False) -> None:
        """A tick has taken so long; is_in_launch: one of several that were planned together."""
        key = rounded(num_tokens)
        if is_in_launch:
            mean, count = self._means_in_launch[model].get(key, (seconds / self._pace, 0))
            surprise = min(max(seconds / (mean * self._pace), 1 / LARGEST_SURPRISE), LARGEST_SURPRISE)
            self._means_in_launch[model][key] = mean * surprise ** max(NEWEST, 1 / (count + 1)), count + 1
        known = self._means[model].get(key)
        if known is None:
            insort(self._measured[model], key)
            self._means[model][key] = seconds / self._pace, 1
            return
        mean, count = known
        surprise = min(max(seconds / (mean * self._pace), 1 / LARGEST_SURPRISE), LARGEST_SURPRISE)
        self._pace *= surprise**NEWEST_PACE
        self._means[model][key] = mean * surprise ** max(NEWEST, 1 / (count + 1)), count + 1

    def of(self, model: int, num_tokens: int) -> float:
        """What a tick of so many tokens is expected to take, in seconds."""
        return self._pace * self._mean(model, rounded(num_tokens))

    def in_launch(self, model: int, num_tokens: int) -> float | None:
        """The same of a tick in a launch, in which nobody plans; None if there was none."""
        known = self._means_in_launch[model].get(rounded(num_tokens))
        return None if known is None else self._pace * known[0]

    def _mean(self, model: int, num_tokens: int) -> float:
        measured, means = self._measured[model], self._means[model]
        place = bisect_left(measured, num_tokens)
        if place == 0 and not (measured and measured[0] == num_tokens):
            return self._guess(model, num_tokens)
        if place == len(measured):
            last = measured[-1]
            return means[last][0] * relative(num_tokens) / relative(last)
        above = measured[place]
        if above == num_tokens:
            return means[above][0]
        below = measured[place - 1]
        share = (num_tokens - below) / (above - below)
        return means[below][0] * (1 - share) + means[above][0] * share

    def _guess(self, model: int, num_tokens: int) -> float:
        """For fewer tokens than the model has run at a time: the least that is plausible, so that it is tried.

        A prompt says little about a single token, so other models do too, by their bytes.
        """
        guesses = []
        for other, measured in enumerate(self._measured):
            if measured and (other == model or measured[0] <= num_tokens):
                known = max(measured[0], num_tokens)
                scale = self._forward_bytes[model] / self._forward_bytes[other]
                guesses.append(scale * self._mean(other, known) * relative(num_tokens) / relative(known))
        return min(guesses, default=1e-10 * self._forward_bytes[model] * relative(num_tokens))


def relative(num_tokens: int) -> float:
    """A tick's time in terms of one token's, as it is guessed."""
    return 1 + FIRST_SLOPE * (num_tokens - 1)


def rounded(num_tokens: int) -> int:
    """The number of tokens that stands for this one."""
    if num_tokens <= EXACT:
        return num_tokens
    step = 1 << max(0, int(math.log2(num_tokens)) - 3)
    return num_tokens // step * step
