"""Calls of tools in what a model answers, as their models write them."""

import json
import re
from collections.abc import Callable, Sequence

from glimp_engine.errors import check_choice
from glimp_engine.serving.call_parser import (
    CALL,
    CALL_END,
    CallDelta,
    CallParser,
    ContentDelta,
    NoCallError,
    Reading,
)
from glimp_engine.serving.parameter_values import as_json, is_text, quoted, types_of

__all__ = ["CallDelta", "CallParser", "ContentDelta", "HermesParser", "Qwen3CoderParser", "find_parser"]

FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
# What ends a parameter's value, if one of these or the text's end follows; anything else makes it part of the value.
VALUE_ENDS = {
    PARAMETER_END: (PARAMETER, FUNCTION_END, CALL_END, CALL),
    FUNCTION_END: (CALL_END, CALL, FUNCTION),
    CALL_END: (CALL,),
}
ARGUMENTS = ("arguments", "parameters")  # what a call's arguments are called
CLOSING = {"{": "}", "[": "]"}


def find_parser(name: str | None, template: str) -> type[CallParser] | None:
    """The parser of this name, or with `auto` that of the calls which a chat template's source tells a model to write.

    Raises: ConfigError.
    """
    if name is None:
        return None
    check_choice("tool_call_parser", name, ("auto", *PARSERS))
    if name != "auto":
        return PARSERS[name]
    if CALL not in template or re.search("<arg_key>|<invoke", template):  # GLM, MiniMax
        return None
    if FUNCTION in template:
        return Qwen3CoderParser if PARAMETER in template else None
    return HermesParser


class HermesParser(CallParser):
    """Calls as Qwen2.5, Qwen3 and Hermes write them: a JSON object with name and arguments between two marks.

    Arguments come as they are written, as soon as the name is known; ones that are JSON in a string come as that JSON.
    Where a call ends too early, what its arguments lack to be closed is added. Without arguments they are {}.
    """

    begins = (CALL,)
    _is_open = False  # whether the call that is read has begun

    def _call(self, mark: str) -> Reading[str]:
        yield from self._spaces()
        while True:
            yield from self._object()
            yield from self._spaces()
            while self._char == "}":  # models write one too many
                self._char = yield
                yield from self._spaces()
            if self._char != "{":
                return (yield from self._behind())

    def _object(self) -> Reading[None]:
        """One call's object."""
        self._is_open = False
        try:
            yield from self._expect("{")
            yield from self._fields()
            yield from self._expect("}")
        except NoCallError:
            if not self._is_open:
                raise
        finally:
            self._take_in = self._held.append

    def _fields(self) -> Reading[None]:
        name, arguments = "", ""
        yield from self._spaces()
        while self._char == '"':
            key = decoded((yield from self._string()))
            yield from self._spaces()
            yield from self._expect(":")
            yield from self._spaces()
            if key in ARGUMENTS and not arguments:
                arguments = yield from self._arguments(name)
            else:
                value = yield from self._value()
                name = name or (decoded(value) if key == "name" else "")
            if name and arguments and not self._is_open:
                self._open(name, arguments)
            yield from self._spaces()
            if self._char != ",":
                break
            yield from self._take()
            yield from self._spaces()
        if self._char == "}" and name and not self._is_open:
            self._open(name, "{}")
        elif not self._is_open:
            raise NoCallError

    def _open(self, name: str, arguments: str = "") -> None:
        """The call has begun; what its object has besides is nothing that a client gets."""
        self._begin(name)
        self._writer.add_arguments(arguments)
        self._is_open = True
        self._take_in = ignore

    def _arguments(self, name: str) -> Reading[str]:
        """Arguments; with a name they are given as they are read."""
        if not name or self._char not in CLOSING:
            arguments = yield from self._value()
            return in_string(arguments) if arguments[0] == '"' else "{}" if arguments == "null" else arguments
        self._open(name)
        self._take_in = self._writer.add_arguments
        arguments = yield from self._value()
        self._take_in = ignore
        return arguments

    # JSON, which is checked only as far as is needed to see where it ends. Each returns what it has read.

    def _value(self) -> Reading[str]:
        if self._char == '"':
            return (yield from self._string())
        if self._char in CLOSING:
            return (yield from self._container())
        word = []
        while self._char and self._char not in ',:]}<"' and not self._char.isspace():
            word.append(self._char)
            yield from self._take()
        if not word or not self._char:
            raise NoCallError
        return "".join(word)

    def _container(self) -> Reading[str]:
        """An object or an array, up to the bracket that closes it, or to what can't be in it."""
        read: list[str] = []
        to_close: list[str] = []
        while self._char and self._char != "<":
            if self._char == '"':
                read.append((yield from self._string()))
                continue
            if self._char in CLOSING:
                to_close.append(CLOSING[self._char])
            elif self._char == to_close[-1]:
                to_close.pop()
            elif self._char in "]}":
                break
            read.append(self._char)
            yield from self._take()
            if not to_close:
                return "".join(read)
        if self._char and self._is_open:
            self._take_in("".join(reversed(to_close)))
        raise NoCallError

    def _string(self) -> Reading[str]:
        read = [self._char]
        yield from self._take()
        while self._char and self._char != '"':
            for _ in range(1 + (self._char == "\\")):
                read.append(self._char)
                yield from self._take()
        yield from self._expect('"')
        return "".join([*read, '"'])

    def _expect(self, char: str) -> Reading[None]:
        if self._char != char:
            raise NoCallError
        yield from self._take()


class Qwen3CoderParser(CallParser):
    """Calls as Qwen3-Coder, Qwen3.5 and Nemotron 3 write them: parameters between marks, their values without quotes.

    The tool's schema says what a value is; without one, or if it can't be that, it's a string. Strings come as they are
    written, but for one line break at each end. The mark before a function may be missing if the function is a tool,
    and those behind parameter and function if the next one is there.
    """

    begins = (CALL, FUNCTION)

    def _call(self, mark: str) -> Reading[str]:
        is_marked = mark == CALL
        if is_marked:
            yield from self._spaces()
            if not (yield from self._mark((FUNCTION,))):
                raise NoCallError
        name = yield from self._name()
        yield from self._spaces()
        inside = (yield from self._mark((PARAMETER, FUNCTION_END))) if name else ""
        if not inside or not (is_marked or name in self._parameters):
            raise NoCallError
        self._begin(name)
        behind = yield from self._values(name, inside)
        if behind is None:
            return ""
        if behind == FUNCTION_END:
            return (yield from self._behind())
        self._held[:] = [behind] if behind in self.begins else []
        return behind if behind in self.begins else ""

    def _values(self, name: str, mark: str) -> Reading[str | None]:
        """Give the parameters from the first one's mark on; the mark behind them, None if the text's end cuts them."""
        parameters, separator = self._parameters.get(name), "{"
        while mark in (PARAMETER, PARAMETER_END):
            self._held[:] = [mark] if mark == PARAMETER else []
            key = (yield from self._name()) if mark == PARAMETER else ""
            if key:
                self._held.clear()
                self._writer.add_arguments(f"{separator}{quoted(key)}: ")
                separator = ", "
                behind = yield from self._typed_value(types_of(parameters, key))
            else:  # no parameter: what is written here is content
                behind = (yield from self._content((*VALUE_ENDS, PARAMETER, *self.begins))) if self._char else None
            self._held.clear()
            if behind is None:
                return None
            mark = behind
        self._writer.add_arguments("{}" if separator == "{" else "}")
        self._is_behind_call = True
        return mark

    def _name(self) -> Reading[str]:
        """The name up to its end; nothing if it's none."""
        read = []
        while self._char and self._char not in "<>" and not self._char.isspace():
            read.append(self._char)
            yield from self._take()
        if self._char != ">":
            return ""
        yield from self._take()
        return "".join(read).strip("\"'")  # models quote names, as in XML

    def _typed_value(self, types: Sequence[str]) -> Reading[str | None]:
        """Give a value as JSON; the mark behind it, None if the text's end cuts it off."""
        if not is_text(types):
            written: list[str] = []
            mark = yield from self._value(written.append)
            self._writer.add_arguments("" if mark is None else as_json("".join(written), types))
            return mark
        self._writer.add_arguments('"')
        mark = yield from self._value(lambda text: self._writer.add_arguments(quoted(text)[1:-1]))
        self._writer.add_arguments("" if mark is None else '"')
        return mark

    def _value(self, give: Callable[[str], None]) -> Reading[str | None]:
        """Give a value as it's written; the mark behind it, None if the text's end cuts it off."""
        if self._char == "\n":
            self._char = yield
        value = ValueWriter(give)
        while self._char:
            if self._char != "<":
                value.add(self._char)
                self._char = yield
                continue
            mark = yield from self._mark((*VALUE_ENDS, PARAMETER) if value.is_line_new else (*VALUE_ENDS,))
            while mark in VALUE_ENDS:
                yield from self._spaces()
                behind = yield from self._mark((*VALUE_ENDS, PARAMETER, *self.begins))
                if not self._char or behind in VALUE_ENDS[mark]:
                    return behind
                value.add("".join(self._held).removesuffix(behind))
                self._held[:] = [mark := behind]
            if mark == PARAMETER and value.is_line_new:
                return mark
            if self._char:  # else it's a mark that is cut off
                value.add("".join(self._held))
            self._held.clear()
        return None


class ValueWriter:
    """Gives a value on as it's written, but for a line break at its end."""

    def __init__(self, give: Callable[[str], None]) -> None:
        self._give = give
        self.is_line_new = False  # whether a line break is held back

    def add(self, text: str) -> None:
        if text:
            held = "\n" if self.is_line_new else ""
            self.is_line_new = text.endswith("\n")
            self._give(held + text.removesuffix("\n"))


PARSERS: dict[str, type[CallParser]] = {"hermes": HermesParser, "qwen3_coder": Qwen3CoderParser}


def decoded(text: str) -> str:
    """What a JSON string says. Raises: NoCallError if it's none."""
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        raise NoCallError from None
    if not isinstance(value, str):
        raise NoCallError
    return value


def in_string(text: str) -> str:
    """The object that a JSON string holds as JSON, an empty one if it holds nothing; else the string."""
    try:
        held = json.loads(text, strict=False) or "{}"
        return held if isinstance(json.loads(held), dict) else text
    except (ValueError, RecursionError):
        return text


def ignore(text: str) -> None:
    """Take nothing in."""
