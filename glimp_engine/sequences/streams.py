"""The token streams of a sequence: one that both models read, or one for each, joined at boundaries.

Models with one vocabulary read one stream through one page table. So do models whose vocabularies differ in special
tokens only, where the prompt means the same in both: ids are then mapped through a table. Otherwise each model has a
stream of its own ids, and what the other one wrote is carried over when a model next needs it.
"""

from glimp_engine.errors import RequestError
from glimp_engine.routing import Model
from glimp_engine.sampling import StructuredOutputs
from glimp_engine.sequences.pages import PagePool
from glimp_engine.sequences.token_stream import Outcome, StreamMark, TokenStream
from glimp_engine.text import Grammar, Grammars, Pair, Text

__all__ = ["Dictionary", "Streams"]


class Dictionary:
    """Says in one model's ids what was written in the other's."""

    def __init__(self, texts: tuple[Text, Text], pair: Pair, vocab_sizes: tuple[int, int]) -> None:
        """vocab_sizes: rows of the models' embeddings, which may be more or fewer than their tokenizers' ids."""
        self.texts = texts
        self.pair = pair
        self.vocab_sizes = vocab_sizes
        small = Grammars(texts[Model.SMALL])
        self._grammars = small, small if texts[Model.LARGE] is texts[Model.SMALL] else Grammars(texts[Model.LARGE])

    def compile(self, asked: StructuredOutputs, model: Model) -> Grammar:
        """What an answer has to be, in the model's tokens. Raises: as `Grammars.compile`."""
        return self._grammars[model].compile(asked, self.vocab_sizes[model])

    def map_ids(self, token_ids: list[int], target: Model) -> list[int]:
        """The other model's ids as the target's; -1 for a special token that the target lacks."""
        table = self.pair.to_large if target is Model.LARGE else self.pair.to_small
        return token_ids if table is None else [table[token_id] for token_id in token_ids]

    def check_ids(self, token_ids: list[int], model: Model) -> None:
        """Raise RequestError unless each id has a row in the model's embedding."""
        if token_ids and not (min(token_ids) >= 0 and max(token_ids) < self.vocab_sizes[model]):
            unknown = next(i for i in token_ids if not 0 <= i < self.vocab_sizes[model])
            raise RequestError(
                f"a token has no id that the {model} model knows"
                if unknown < 0
                else f"token id {unknown} is beyond the {model} model's embedding, which has "
                f"{self.vocab_sizes[model]} rows: its tokenizer doesn't fit it"
            )

    def unknown_to_other(self, model: Model) -> list[int]:
        """Ids that the model must not write, as the other one, who reads the same stream, doesn't have them."""
        vocab_sizes = self.vocab_sizes
        if self.pair.kind == "unrelated":
            return []
        if self.pair.kind == "identical":
            return list(range(min(vocab_sizes), vocab_sizes[model]))  # padding that is wider than the other's
        table = (self.pair.to_large if model is Model.SMALL else self.pair.to_small) or []
        unmapped = [token_id for token_id, other in enumerate(table) if other < 0]
        return unmapped + list(range(len(table), vocab_sizes[model]))

    def carry(self, token_ids: list[int], text: str, target: Model) -> list[int]:
        """What the other model has written, for the target to read: by the table if there is one, else its text."""
        if self.pair.kind != "unrelated":
            return self.map_ids(token_ids, target)
        carried = self.texts[target].encode_carried(text, self.texts[1 - target])
        carried = carried or self.texts[target].encode("\n", allow_special=False)  # a forward needs a token
        self.check_ids(carried, target)
        return carried


class Streams:
    """What each model reads of one sequence."""

    def __init__(self, small: TokenStream, large: TokenStream, dictionary: Dictionary) -> None:
        self.num_seen = [0, 0]  # [model]: positions it had seen when pages were last given back
        self.num_cached_tokens = 0  # of the prompt, that its first reader found in the prefix cache
        self._of = (small, large)
        self.is_shared = small is large  # whether both read one stream
        self._dictionary = dictionary
        self._num_carried = [0, 0]  # [model]: output tokens that are in its stream
        self._chars_carried = [0, 0]

    def of(self, model: Model) -> TokenStream:
        return self._of[model]

    def distinct(self) -> tuple[TokenStream, ...]:
        return self._of[:1] if self.is_shared else self._of

    def ids_for(self, model: Model, start: int, end: int) -> list[int]:
        """Positions start:end of the model's stream, in its own ids."""
        return self.in_ids_of(model, self._of[model].tokens[start:end])

    def in_ids_of(self, model: Model, tokens: list[int]) -> list[int]:
        """Tokens of the model's stream in its own ids."""
        return tokens if self._of[model].vocabulary is model else self._dictionary.map_ids(tokens, model)

    def write(self, model: Model, token_id: int) -> list[Outcome]:
        """Let what the model has written, in its own ids, stand in its stream, and say what becomes of proposals."""
        return self._of[model].write(self.in_stream(model, token_id))

    def in_stream(self, model: Model, token_id: int) -> int:
        """A token of the model's in the ids of its stream."""
        vocabulary = self._of[model].vocabulary
        return token_id if vocabulary is model else self._dictionary.map_ids([token_id], vocabulary)[0]

    def has_words_for(self, model: Model, token_ids: list[int]) -> bool:
        """Whether the model's stream can hold these ids of its own."""
        vocabulary = self._of[model].vocabulary
        return vocabulary is model or -1 not in self._dictionary.map_ids(token_ids, vocabulary)

    def carry(self, model: Model, output_ids: list[int], text: str) -> None:
        """Bring the model's stream up to date with all that has been written so far."""
        if self.is_shared:
            return
        pending = output_ids[self._num_carried[model] :]
        if pending:
            unseen_text = text[self._chars_carried[model] :]
            self._of[model].read(self._dictionary.carry(pending, unseen_text, model))
        self.mark_carried(model, len(output_ids), len(text))

    def mark_carried(self, model: Model, num_tokens: int, num_chars: int) -> None:
        """The model has written the output up to here itself."""
        self._num_carried[model], self._chars_carried[model] = num_tokens, num_chars

    def positions_seen(self) -> list[int]:
        """[model]: how many positions it has run, or found in the prefix cache, at any time."""
        seen = list(self.num_seen)
        for model in Model:
            stream = self._of[model]
            if stream.table.is_attached:
                seen[model] = max(seen[model], stream.table.next_run(model, len(stream))[0])
        return seen

    def release_pages(self) -> None:
        """Give all pages back; the sequence can go on later where it is now, without its proposals."""
        for stream in self.distinct():
            stream.drop_proposals()
        self.num_seen = self.positions_seen()
        for stream in self.distinct():
            stream.table.release(stream.tokens)

    def restore_one(self, model: Model, mark: StreamMark) -> None:
        """Take the model's stream back to where it stood; the other goes on if it has one of its own."""
        seen = self.positions_seen()
        self._of[model].restore(mark)
        self._forget(seen)

    def mark(self) -> list[StreamMark]:
        """Where each distinct stream stands, for `restore`."""
        return [stream.mark() for stream in self.distinct()]

    def restore(self, marks: list[StreamMark], num_tokens: int, num_chars: int) -> None:
        """Go back to these marks, at which all streams held exactly that much of the output."""
        seen = self.positions_seen()
        for stream, mark in zip(self.distinct(), marks, strict=True):
            stream.restore(mark)
        self._forget(seen)
        for model in Model:
            self.mark_carried(model, num_tokens, num_chars)

    def _forget(self, seen: list[int]) -> None:
        self.num_seen = [min(seen[model], len(self._of[model])) for model in Model]

    def fork(self, pool: PagePool) -> "Streams":
        """The same tokens with page tables of their own, which find the shared pages in the prefix cache."""
        copies = [TokenStream(stream.tokens, stream.vocabulary, pool) for stream in self.distinct()]
        forked = Streams(copies[0], copies[-1], self._dictionary)
        forked.num_seen = self.positions_seen()
        return forked
