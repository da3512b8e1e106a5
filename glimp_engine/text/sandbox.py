"""Chat templates of strangers, rendered as transformers does, but within limits of time and size.

A template is a program. The sandbox keeps it from what isn't its own; the limits keep it from running for ever and from
filling the memory. The time is looked at in every turn of a loop and every call, and no single operation makes a string
or a list larger than the limits, so no operation takes long: nothing needs to be interrupted from outside.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import wraps
from string import Formatter
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

__all__ = ["LimitError", "TemplateSandbox"]

MAX_SECONDS = 5.0  # the longest templates known take milliseconds
MAX_CHARS = 1 << 24  # of any text; a prompt of 4 million tokens
MAX_ITEMS = 1 << 18  # of any list, with all that its items hold
MAX_BITS = 1 << 12  # of any integer
MAX_WIDTH = 1 << 12  # that a text is padded or indented to
CHARS_PER_ITEM = 8  # of what is neither text nor list
GROWING = frozenset(("*", "**", "+", "%"))
PADDING = ("center", "ljust", "rjust", "zfill", "expandtabs")
WIDTHS = re.compile(r"\d{5,}|\*")
UNWRITTEN_WIDTH = "the chat template formats to a width of more than four digits, or one that isn't written"


class LimitError(TemplateError):
    """A template has gone beyond a limit."""


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The environment that transformers renders chat templates in, with limits; for one thread after the other."""

    intercepted_binops = GROWING

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
        self.code_generator_class = LimitedCode
        self.concat = self.joined  # type: ignore[method-assign]  # of the pieces that a template or a macro writes
        self.finalize = self.measured
        self._deadline = time.monotonic() + MAX_SECONDS
        self._compiled: tuple[str, Template] | None = None  # the last template
        self._lock = threading.Lock()  # prompts are read in other threads than the engine's, too
        self.filters["tojson"] = self._to_json
        self.filters = {name: self._limited(name, function) for name, function in self.filters.items()}
        self.globals |= {
            "raise_exception": raise_exception,
            "strftime_now": strftime_now,
            "dict": TemplateDict(),
            "namespace": TemplateNamespace,
        }
        del self.globals["lipsum"]  # writes as much as it's asked for

    def render(self, source: str, values: Mapping[str, Any]) -> str:
        """What the template writes.

        Raises: whatever it raises; a TemplateError beyond a limit.
        """
        with self._lock:
            return self._render(source, values)

    def _render(self, source: str, values: Mapping[str, Any]) -> str:
        self._deadline = time.monotonic() + MAX_SECONDS
        if self._compiled is None or self._compiled[0] != source:
            self._compiled = source, self.from_string(source)
        return self._compiled[1].render(**values)

    def tick(self) -> str:
        """Nothing, unless the time is over."""
        if time.monotonic() > self._deadline:
            raise LimitError(f"the chat template takes longer than {MAX_SECONDS} s")
        return ""

    def joined(self, pieces: Iterable[Any]) -> str:
        """The pieces as one text, which is within the limits."""
        written, num_chars = [], 0
        for piece in pieces:
            text = str(self.measured(piece))
            num_chars += len(text)
            check_chars(num_chars)
            written.append(text)
        return "".join(written)

    def measured(self, value: Any) -> Any:
        """The value, which is within the limits."""
        self.tick()
        if isinstance(value, (str, bytes)):
            check_chars(len(value))
        elif isinstance(value, int):
            if value.bit_length() > MAX_BITS:
                raise LimitError(f"the chat template makes a number of {value.bit_length()} bits; allowed: {MAX_BITS}")
        elif isinstance(value, (list, tuple, dict, set, frozenset, TemplateNamespace)):
            check_chars(size_of(value))
        return value

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_operands(operator, left, right)
        return self.measured(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        __self.tick()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, (str, bytes, int)):
            args = tuple(map(__self.counted, args))
            check_method(owner, name, args, kwargs)
        return __self.measured(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def limited(*args: Any, **kwargs: Any) -> str:
            check_fields(value.__self__, [*args, *kwargs.values()])
            return wrapped(*args, **kwargs)

        return limited

    def counted(self, value: Any) -> Any:
        """The value; what it gives one by one is within the limits together."""
        return self._counted(value) if hasattr(value, "__next__") else value

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        size = 0
        for item in items:
            self.tick()
            size += size_of(item)
            check_chars(size)
            yield item

    def _to_json(
        self, x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        """JSON as it is, where Jinja's own filter escapes what HTML would."""
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return encoder.encode(x) if indent is None else self.joined(encoder.iterencode(x))

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        for loop in source.find_all(nodes.For):
            loop.body.insert(0, nodes.ExprStmt(call_of("tick", [], loop.lineno), lineno=loop.lineno))
        source = MeasuredLiterals().visit(source)
        source.set_environment(self)
        return super()._generate(source, *args, **kwargs)

    def _limited(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The filter, with its arguments looked at before, and what it gives behind it."""

        @wraps(function)  # keeps the mark that says whether it's passed a context
        def limited(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            first = int(hasattr(function, "jinja_pass_arg"))  # a context, or the like
            args = (*args[:first], *map(self.counted, args[first:]))
            check_filter(name, args[first:], kwargs)
            result = function(*args, **kwargs)
            return self.measured(result) if not hasattr(result, "__await__") else result

        return limited


class LimitedCode(CodeGenerator):
    """Compiles `~` to something that has limits."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class MeasuredLiterals(NodeTransformer):
    """Lists that a template makes of what it has are measured: each may hold the one before twice."""

    def visit_List(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        is_constant = all(isinstance(item, nodes.Const) for item in node.iter_child_nodes())
        return node if is_constant else call_of("measured", [node], node.lineno)

    visit_Dict = visit_List  # noqa: N815

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        return self.visit_List(node) if node.ctx == "load" else node


class Generation(Extension):
    """`{% generation %}` marks what the model writes, for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(lineno)

    def _written(self, caller: Macro) -> str:
        return str(caller())


class TemplateDict:
    """`dict`, without its attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class TemplateNamespace(Namespace):
    """`namespace`, without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that namespace(self=...) is one
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        check_name(name)
        Namespace.__setitem__(self, name, value)


def call_of(method: str, args: list[nodes.Expr], lineno: int) -> nodes.Call:
    """A call of one of the environment's own methods."""
    return nodes.Call(nodes.EnvironmentAttribute(method), args, [], None, None, lineno=lineno)


def check_name(name: Any) -> None:
    """Raise SecurityError on a name that a namespace must not have."""
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"chat templates can't store {name!r} in a namespace")


def check_chars(num_chars: float) -> None:
    """Raise LimitError if a text is too long."""
    if num_chars > MAX_CHARS:
        raise LimitError(f"the chat template makes a text of {num_chars} characters; allowed: {MAX_CHARS}")


def size_of(value: Any) -> int:
    """About how many characters a value would have in writing.

    Raises: LimitError if it's a list that holds too much, as one does that holds the same twice, again and again.
    """
    num_items, num_chars, waiting = 0, 0, [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (list, tuple, set, frozenset)):
            num_items += len(value)
            waiting += value if num_items <= MAX_ITEMS else ()
        elif isinstance(value, dict):
            num_items += 2 * len(value)
            waiting += [*value, *value.values()] if num_items <= MAX_ITEMS else ()
        elif isinstance(value, TemplateNamespace):
            num_items += 1
            waiting.append(object.__getattribute__(value, "_Namespace__attrs"))  # which may hold itself
        else:
            num_chars += len(value) if isinstance(value, (str, bytes)) else CHARS_PER_ITEM
        if num_items > MAX_ITEMS:
            raise LimitError(f"the chat template makes a list of more than {MAX_ITEMS} items")
    return num_chars + 2 * num_items


def check_operands(operator: str, left: Any, right: Any) -> None:
    """Raise LimitError if an operator's result would be too large."""
    if operator == "%" and isinstance(left, (str, bytes)):
        check_format(left, [right])
    elif operator == "*":
        for sized, count in ((left, right), (right, left)):
            if isinstance(sized, (str, bytes, list, tuple)) and isinstance(count, int):
                check_chars(len(sized) * count)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * abs(right)
        if bits > MAX_BITS:
            raise LimitError(f"the chat template makes a number of {bits} bits; allowed: {MAX_BITS}")


def check_format(pattern: Any, values: list[Any]) -> None:
    """Raise LimitError if what `%` writes is too long, or as wide as only its values say."""
    text = pattern.decode("latin-1") if isinstance(pattern, bytes) else str(pattern)
    if "%" in text and WIDTHS.search(text):
        raise LimitError(UNWRITTEN_WIDTH)
    check_chars(len(text) + text.count("%(") * size_of(values))


def check_fields(pattern: str, values: list[Any]) -> None:
    """Raise LimitError if what str.format writes is too long, or as wide as only its values say."""
    num_fields = 0
    for _, name, spec, _ in Formatter().parse(pattern):
        num_fields += name is not None
        if spec and ("{" in spec or WIDTHS.search(spec)):
            raise LimitError(UNWRITTEN_WIDTH)
    check_chars(len(pattern) + num_fields * max(map(size_of, values), default=0))


def check_width(width: Any) -> None:
    """Raise LimitError if a text would be padded to a width too large."""
    if isinstance(width, int) and width > MAX_WIDTH:
        raise LimitError(f"the chat template pads a text to {width} characters; allowed: {MAX_WIDTH}")


def check_method(owner: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise LimitError if a method of a text or a number would make something too large."""
    if name in (*PADDING, "to_bytes"):
        for width in (*args, *kwargs.values()):
            check_width(width)
        if name == "expandtabs" and not isinstance(owner, int):
            num_tabs = owner.count("\t") if isinstance(owner, str) else owner.count(b"\t")
            widest = max((width for width in (*args, *kwargs.values()) if isinstance(width, int)), default=8)
            check_chars(num_tabs * widest)
    elif name == "replace" and len(args) >= 2 and type(args[0]) is type(args[1]) is type(owner):
        check_chars(len(owner) + owner.count(args[0]) * len(args[1]))
    elif name == "join" and args and isinstance(args[0], (list, tuple, dict, set, str)):
        check_chars(sum(len(item) + len(owner) for item in args[0] if isinstance(item, (str, bytes))))
    elif name == "translate" and args and isinstance(args[0], dict):
        check_chars(len(owner) * max((len(value) for value in args[0].values() if isinstance(value, str)), default=1))


def check_filter(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise LimitError if a filter would make something too large."""
    value, options = args[0] if args else "", [*args[1:], *kwargs.values()]
    text = value if isinstance(value, str) else ""
    if name in ("center", "indent", "wordwrap", "batch", "slice", "round", "tojson", "truncate", "urlize", "xmlattr"):
        for width in options:
            check_width(len(width) if isinstance(width, str) else width)
    if name in ("indent", "wordwrap"):
        widest = max(
            (len(w) if isinstance(w, str) else int(w) for w in options if isinstance(w, (str, int))), default=4
        )
        num_lines = text.count("\n") if name == "indent" else len(text) // 2
        if name == "indent" or any(isinstance(option, str) for option in options):
            check_chars(len(text) + num_lines * widest)
    if name == "format":
        check_format(value, options)
    if name == "replace" and len(args) >= 3:
        old, new = map(str, args[1:3])
        check_chars(len(str(value)) + str(value).count(old) * len(new))
    if name in ("join", "list", "sort", "unique", "batch", "slice") and len(text) > MAX_ITEMS:
        raise LimitError(f"the chat template makes a list of {len(text)} items; allowed: {MAX_ITEMS}")
    if name == "join" and isinstance(value, (list, tuple, dict, set, str)):
        separator = str(args[1] if len(args) > 1 else kwargs.get("d", ""))
        check_chars(len(separator) * len(value) + size_of(value))


def raise_exception(message: str) -> None:
    """A template's own refusal."""
    raise TemplateError(message)


def strftime_now(pattern: str) -> str:
    """The time of day, as asked for."""
    check_format(pattern, [])
    return datetime.now().strftime(pattern)
