"""What a growing text thinks and what it answers, told apart by the model's marks."""

from glimp_engine.text import ThinkingMarks

__all__ = ["ReasoningSplitter"]


class ReasoningSplitter:
    """Splits a text that comes in pieces into (reasoning, content), whatever the pieces are.

    A thinking begins where the text does, white space before its begin mark allowed, or has begun in the prompt
    (is_thinking); a begin mark that comes then all the same is read over. It ends with the first end mark, or with the
    text. Marks anywhere else are text, as everything is for a model that has none.

    The marks, and the white space before the begin mark, belong to neither text. Nor do line breaks right around the
    marks: reasoning begins and ends with none unless the text ends inside it, content behind a thinking begins with
    none. Templates write these line breaks anew. All else is as it was written, and only what may be a part of a mark,
    or of the line breaks before one, is held back.
    """

    def __init__(self, marks: ThinkingMarks | None, is_thinking: bool) -> None:
        self._marks = marks
        self._has_begun = is_thinking
        self._held = ""
        self._read = self._content if marks is None else self._beginning

    def push(self, text: str) -> tuple[str, str]:
        """What is certainly reasoning and what is certainly content, of what is held back and this."""
        self._held += text
        return self._read()

    def finish(self) -> tuple[str, str]:
        """What was held back for a mark that never came."""
        held, self._held = self._held, ""
        if self._read == self._beginning:
            return (held.lstrip("\n"), "") if self._has_begun else ("", held)
        return (held, "") if self._read == self._reasoning else ("", "")

    # What is read now. Each gives what it can, and goes on as the next.

    def _beginning(self) -> tuple[str, str]:
        """Up to the first character that a begin mark doesn't have there."""
        assert self._marks is not None
        begin, written = self._marks.begin, self._held.lstrip()
        if written.startswith(begin):
            self._held = written[len(begin) :]
        elif begin.startswith(written):
            return "", ""
        elif not self._has_begun:
            self._read = self._content
            return self._read()
        self._read = self._reasonings_line_breaks
        return self._read()

    def _reasonings_line_breaks(self) -> tuple[str, str]:
        self._held = self._held.lstrip("\n")
        if not self._held:
            return "", ""
        self._read = self._reasoning
        return self._read()

    def _reasoning(self) -> tuple[str, str]:
        """Up to the end mark and the line breaks before it."""
        assert self._marks is not None
        end = self._marks.end
        reasoning, mark, behind = self._held.partition(end)
        if mark:
            self._held, self._read = behind, self._contents_line_breaks
            return reasoning.rstrip("\n"), self._read()[1]
        num_of_mark = max(num for num in range(len(end)) if self._held.endswith(end[:num]))
        reasoning = self._held[: len(self._held) - num_of_mark].rstrip("\n")
        self._held = self._held[len(reasoning) :]
        return reasoning, ""

    def _contents_line_breaks(self) -> tuple[str, str]:
        self._held = self._held.lstrip("\n")
        if not self._held:
            return "", ""
        self._read = self._content
        return self._read()

    def _content(self) -> tuple[str, str]:
        content, self._held = self._held, ""
        return "", content
