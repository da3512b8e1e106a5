"""Chat messages as the text that a model was trained on, up to where its answer begins, and whether it thinks first."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from glimp_engine.errors import RequestError
from glimp_engine.text.messages import BREAK, REASONING, Chat, SpecialNames, plain, read_messages
from glimp_engine.text.sandbox import LimitError, TemplateSandbox
from glimp_engine.text.thinking import find_marks

__all__ = ["ChatFormat", "ChatTemplate"]

# what templates call the switch of models that think or not; a switch that a template doesn't know changes nothing
THINK = {"enable_thinking": True, "thinking": True}
DONT_THINK = {"enable_thinking": False, "thinking": False, "thinking_budget": 0}
OWN_NAMES = ("messages", "tools", "documents", "add_generation_prompt")
QUESTION, THOUGHT, ANSWER = "(a question)", "(a thought)", "(an answer)"  # of the turn that templates are tried with


@dataclass(frozen=True)
class ChatFormat:
    """What a checkpoint says about chats: a template, or several by name, and the special tokens that stand in it."""

    template: str | dict[str, str] | None = None
    special_tokens: Mapping[str, Any] = field(default_factory=dict)  # bos_token, eos_token, ...


class ChatTemplate:
    """One model's template. `marks` are those of its thinking; None if it doesn't think."""

    def __init__(
        self, chat_format: ChatFormat, special: Collection[str] = (), is_token: Callable[[str], bool] = lambda _: False
    ) -> None:
        """`special` are the names of special tokens, which only the template may write."""
        self._format = chat_format
        self._sandbox = TemplateSandbox()
        tried = self._tried_turns()
        self.marks = find_marks(tried, is_token)
        self._turn = tried[-1].rpartition(QUESTION)[2]
        self._names = SpecialNames({*special, *((self.marks.begin, self.marks.end) if self.marks else ())})

    @property
    def source(self) -> str:
        """What is rendered for a chat with tools; nothing where there is no template."""
        return self._source(has_tools=True) if self._format.template else ""

    def render(self, chat: Chat) -> list[str]:
        """The messages, up to where the answer begins; thinking is opened where the model would open it.

        The text comes in pieces between which no special token stands: see `messages`.

        Raises: RequestError when a message is malformed, or there is no template, or it refuses them.
        """
        chat = replace(chat, messages=read_messages(chat.messages))
        if not self._format.template:
            raise RequestError("prompt is a list of messages, and the model has no chat template; allowed: text")
        refused = [name for name in OWN_NAMES if name in chat.chat_template_kwargs]
        if refused:
            raise RequestError(f"chat_template_kwargs has {refused[0]!r}; allowed: what isn't given beside it")
        try:
            chat = self._with_broken_names(chat)
            rendered = self._render(chat)
            if chat.continue_final_message:
                rendered = cut_behind(self._final_content(chat), rendered)
            elif asks_for_answer(chat):
                rendered = self._begin_answer(rendered, chat)
            return rendered.split(BREAK)
        except RequestError:
            raise
        except Exception as error:  # a template may raise anything
            raise RequestError(f"messages don't fit the chat template: {error}") from error

    def render_turn(self, question: str) -> str:
        """What ends an answer in its middle and asks a user's question; without a template the bare question."""
        if not self._format.template:
            return f"\n\n{question}\n"
        turns = (("user", QUESTION), ("assistant", ANSWER), ("user", question))
        chat = Chat([{"role": role, "content": content} for role, content in turns], chat_template_kwargs=DONT_THINK)
        return self._render(chat).rpartition(ANSWER)[2]

    # Thinking.

    def _begin_answer(self, rendered: str, chat: Chat) -> str:
        """Open or close the thinking where the template leaves that to the model, so that step 0 is glimpsed."""
        if self.marks is None:
            return rendered
        written = rendered.rstrip()
        is_open = written.endswith(self.marks.begin)
        if not is_open and not written.endswith(self.marks.end):
            opening = self._opening(chat)
            rendered, is_open = rendered + opening, bool(opening)
        return rendered + self.marks.closing if is_open and not chat.is_thinking_allowed else rendered

    def _opening(self, chat: Chat) -> str:
        """What a model that is asked like this begins its thinking with; nothing if the template shows of none.

        It shows of one by closing the thinking only if it's told to; or it knows no such switch, and writes every
        turn with a thought.
        """
        (behind, asked), (_, on), (_, off) = (self._asked(chat, kwargs) for kwargs in ({}, THINK, DONT_THINK))
        if asked != on or self.marks is None:
            return ""
        begin, end = self.marks.begin, self.marks.end
        is_closed_if_told = off.startswith(asked) and end in off[len(asked) :]
        if self._turn.startswith(behind) and (is_closed_if_told or off == asked):
            opening, thought, _ = self._turn[len(behind) :].partition(THOUGHT)
            if thought and opening.strip() == begin:
                return opening
        if is_closed_if_told:
            opening, begin, rest = off[len(asked) :].partition(begin)
            return opening + begin + "\n" * rest.startswith("\n")
        return ""

    def _asked(self, chat: Chat, kwargs: Mapping[str, Any]) -> tuple[str, str]:
        """What the template writes behind a question, and the part of it that is there for the answer to begin."""
        kwargs = {**chat.chat_template_kwargs, **kwargs}
        question = Chat([{"role": "user", "content": QUESTION}], tools=chat.tools, chat_template_kwargs=kwargs)
        without = self._render(replace(question, add_generation_prompt=False))
        rendered = self._render(question)
        behind = rendered.rpartition(QUESTION)[2]
        return behind, (rendered[len(without) :] if rendered.startswith(without) else "") or behind

    def _tried_turns(self) -> list[str]:
        """What the template writes of a question, told nothing, to think, or not to, and of a turn with a thought."""
        question: dict[str, Any] = {"role": "user", "content": QUESTION}
        answer = {"role": "assistant", "content": ANSWER, **dict.fromkeys(REASONING, THOUGHT)}
        chats = [Chat([question], chat_template_kwargs=kwargs) for kwargs in ({}, THINK, DONT_THINK)]
        tried = []
        for chat in (*chats, Chat([question, answer], add_generation_prompt=False)):
            try:
                tried.append(self._render(chat) if self._format.template else "")
            except LimitError:
                return [""]  # a template that never ends isn't tried again
            except Exception:  # it refuses such a turn, and so doesn't show whether it thinks
                tried.append("")
        return tried

    # Rendering.

    def _render(self, chat: Chat) -> str:
        """What transformers' apply_chat_template writes, but within limits."""
        kwargs = chat.chat_template_kwargs if chat.is_thinking_allowed else {**DONT_THINK, **chat.chat_template_kwargs}
        values = {
            **self._format.special_tokens,
            **plain(kwargs),
            "messages": chat.messages,
            "tools": chat.tools,
            "documents": chat.documents,
            "add_generation_prompt": asks_for_answer(chat),
        }
        return self._sandbox.render(self._source(has_tools=bool(chat.tools)), values)

    def _final_content(self, chat: Chat) -> str:
        """What the last message says; a template takes its thinking out."""
        content = str(chat.messages[-1]["content"])
        return content if self.marks is None else content.rpartition(self.marks.end)[2]

    def _source(self, has_tools: bool) -> str:
        """The template, the default one of several, or that for tools."""
        template = self._format.template
        if isinstance(template, dict):
            name = "tool_use" if has_tools and "tool_use" in template else "default"
            if name not in template:
                raise ValueError(f"the model has several templates, {', '.join(sorted(template))}, and no default")
            template = template[name]
        return str(template)

    def _with_broken_names(self, chat: Chat) -> Chat:
        """The chat as the template gets it: no text in it has the name of a special token."""
        marks = () if self.marks is None else (self.marks.begin, self.marks.end)

        def broken(value: Any, kept: Collection[str] = ()) -> Any:
            if isinstance(value, dict):
                return {broken(key): broken(item, kept) for key, item in value.items()}
            if isinstance(value, (list, tuple)):
                return type(value)(broken(item, kept) for item in value)
            if isinstance(value, str) and BREAK in value:
                raise RequestError("messages have U+FDD0, which is no character; allowed: characters")
            return self._names.broken(value, kept) if isinstance(value, str) and not chat.parse_special else value

        return replace(
            chat,
            messages=[broken(each, marks if each["role"] == "assistant" else ()) for each in chat.messages],
            tools=broken(plain(chat.tools)),
            documents=broken(plain(chat.documents)),
        )


def asks_for_answer(chat: Chat) -> bool:
    """Whether the template writes what an answer begins with."""
    return not chat.continue_final_message if chat.add_generation_prompt is None else chat.add_generation_prompt


def cut_behind(content: str, rendered: str) -> str:
    """The text up to the end of its final message, which templates may have stripped of white space.

    Raises: ValueError when the template doesn't write the message as it is.
    """
    for written in (content.lstrip(), content.strip()):
        place = rendered.rfind(written)
        if written and place >= 0:
            return rendered[: place + len(written)]
    raise ValueError("the template doesn't write the final message as it is, so the answer can't go on with it")
