"""What one model, or both, read of a sequence: the tokens that stand, those that are proposed, and what was drawn."""

from collections import Counter
from dataclasses import dataclass

from glimp_engine.outputs import Proposer
from glimp_engine.routing import Model
from glimp_engine.sequences.ngrams import NGrams
from glimp_engine.sequences.page_table import PageTable
from glimp_engine.sequences.pages import PagePool
from glimp_engine.sequences.samples import SampledToken

__all__ = ["Outcome", "Proposal", "StreamMark", "TokenStream"]


@dataclass(frozen=True)
class Proposal:
    """A token behind the written ones, that whoever writes next is to confirm."""

    proposer: Proposer
    evidence: float  # for it: the small model's probability, or how many tokens before it stand elsewhere too
    depth: int  # proposals before it, of those made at a time


@dataclass(frozen=True)
class Outcome:
    """What has become of a proposal."""

    proposal: Proposal
    is_confirmed: bool | None  # None: one before it was refused


@dataclass(frozen=True)
class StreamMark:
    """Where a stream stood: how many tokens were written, and what each model was known to draw behind them."""

    num_tokens: int
    draws: tuple[SampledToken | None, ...]


class TokenStream:
    """Token ids in one model's vocabulary, prompt first and proposals last, and the pages of their K/V.

    A *place* is the index of a token in the stream, or of one that will be: what a model draws there follows from the
    tokens before it. A draw holds as long as these stand, whoever asked for it, and whoever writes: that's how a
    verification finds what the model has to say, and how a proposal of the small model's is the next glimpse.
    """

    def __init__(self, prompt: list[int], vocabulary: Model, pool: PagePool) -> None:
        self.tokens = list(prompt)
        self.num_prompt_tokens = len(prompt)
        self.num_written = len(prompt)  # tokens that stand
        self.vocabulary = vocabulary
        self.table = PageTable(pool, vocabulary=str(vocabulary).encode())
        self.proposals: list[Proposal] = []  # of the last tokens
        self.draws: tuple[dict[int, SampledToken], ...] = tuple({} for _ in Model)  # [model]: by place, in its own ids
        self.ngrams = NGrams()
        self._num_counted = self.num_prompt_tokens
        self._counts = Counter[int]()

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, token_ids: list[int]) -> None:
        """Let what another stream's model has written stand here too."""
        self.drop_proposals()
        self.tokens += token_ids
        self.num_written += len(token_ids)

    def write(self, token_id: int) -> list[Outcome]:
        """Let a token stand behind those that do, and say what becomes of proposals: it confirms one, or all go."""
        place, outcomes = self.num_written, list[Outcome]()
        if not self.proposals:
            self.tokens.append(token_id)
        elif self.tokens[place] == token_id:
            outcomes = [Outcome(self.proposals.pop(0), is_confirmed=True)]
        else:
            refused, *others = self.proposals
            outcomes = [Outcome(refused, is_confirmed=False), *(Outcome(each, None) for each in others)]
            self.drop_proposals()
            self.tokens.append(token_id)
        self.num_written = place + 1
        for draws in self.draws:
            if draws:
                for drawn in [each for each in draws if each <= place]:
                    del draws[drawn]
        return outcomes

    def propose(self, token_id: int, proposal: Proposal) -> None:
        """Put a token behind all others."""
        self.tokens.append(token_id)
        self.proposals.append(proposal)

    def drop_proposals(self, num_kept: int = 0) -> None:
        """Keep the first num_kept proposals, and what has been run and drawn of them."""
        if len(self.proposals) > num_kept:
            num_tokens = self.num_written + num_kept
            del self.proposals[num_kept:]
            self.table.cut(num_tokens)
            self._keep(num_tokens)

    def truncate(self, num_tokens: int) -> None:
        """Keep the first num_tokens tokens of those that stand, and what either model has seen of them."""
        self.drop_proposals()
        self.table.truncate(self.tokens, num_tokens)
        self._keep(num_tokens)
        self._counts.clear()
        self._num_counted = self.num_prompt_tokens

    def mark(self) -> StreamMark:
        """Where it stands, for `restore`."""
        return StreamMark(self.num_written, tuple(draws.get(self.num_written) for draws in self.draws))

    def restore(self, mark: StreamMark) -> None:
        """Go back to where it stood; what was drawn there still holds, and what was run before it too."""
        self.truncate(mark.num_tokens)
        for draws, draw in zip(self.draws, mark.draws, strict=True):
            if draw is not None:
                draws[mark.num_tokens] = draw

    def counts(self, place: int) -> Counter[int]:
        """How often each token stands between the prompt and the place; the prompt's other tokens have 0."""
        if not self._counts:
            self._counts.update(dict.fromkeys(self.tokens[: self.num_prompt_tokens], 0))
        if place < self._num_counted:  # as when a draft is judged
            counts = Counter(dict.fromkeys(self.tokens[: self.num_prompt_tokens], 0))
            counts.update(self.tokens[self.num_prompt_tokens : place])
            return counts
        num_written = min(self.num_written, place)
        self._counts.update(self.tokens[self._num_counted : num_written])
        self._num_counted = num_written
        if place == num_written:
            return self._counts
        counts = self._counts.copy()
        counts.update(self.tokens[num_written:place])
        return counts

    def _keep(self, num_tokens: int) -> None:
        del self.tokens[num_tokens:]
        self.num_written = min(self.num_written, num_tokens)
        for draws in self.draws:
            for place in [each for each in draws if each > num_tokens]:
                del draws[place]
