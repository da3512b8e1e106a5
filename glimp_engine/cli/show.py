"""An answer on the console as it's written, each step in its model's colour; and what it took."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text as Styled

from glimp_engine.outputs import Event, Finish, RequestOutput, Stats, Step, StepEnd, StepStart, Token
from glimp_engine.routing import Model

__all__ = ["AnswerPrinter", "show", "show_summary"]

COLOURS = {Model.SMALL: "cyan", Model.LARGE: "magenta", None: "yellow"}
MARGIN = 14  # columns for the model and its entropy


def show(events: Iterator[Event], console: Console) -> RequestOutput:
    """Print the answer as it comes, each step in its model's colour with its entropy in the margin.

    Behind a step stands how many of the tokens that were proposed to its writer it has accepted, if any were.
    """
    answer = AnswerPrinter(console)
    for event in events:
        if isinstance(event, StepStart):
            answer.start_step(event.step)
        elif isinstance(event, Token):
            answer.write(event.text, COLOURS[event.model])
        elif isinstance(event, StepEnd):
            answer.end_step(event.step)
        elif isinstance(event, Finish) and event.output is not None:
            answer.write(event.text, COLOURS[None])
            answer.end()
            console.print()
            return event.output
    raise AssertionError("the events ended before the request did")


class AnswerPrinter:
    """Puts the steps below each other; newlines wait until it's known what follows them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lead = ""
        self._held = ""
        self._note = ""
        self._is_first = True

    def start_step(self, step: Step) -> None:
        """The next text begins on a line of its own, with the step's model and entropy before it."""
        self.end()
        entropy = "-" if step.entropy is None else f"{step.entropy:.2f}"
        self._lead = ("" if self._is_first else "\n\n") + f"{step.model!s:<5} {entropy:>5} | "
        self._held = ""
        self._is_first = False

    def end_step(self, step: Step) -> None:
        """What has become of proposals to the step's writer is to stand behind the step, and what is yet held back."""
        if step.num_proposed_tokens:
            self._note = f"  ({step.num_accepted_tokens} of {step.num_proposed_tokens} accepted)"

    def end(self) -> None:
        """Nothing more comes of the step."""
        if self._note and not self._lead:  # else nothing of the step can be seen
            self._console.print(Styled(self._note, "dim"), end="", soft_wrap=True)
        self._note = ""

    def write(self, text: str, colour: str) -> None:
        """Print a piece of the step."""
        text = self._held + text
        shown = text.rstrip("\n").lstrip("\n" if self._lead else "")
        self._held = text[len(text.rstrip("\n")) :]
        if shown:
            indented = shown.replace("\n", "\n" + " " * MARGIN)
            self._console.print(Styled(self._lead, "dim") + Styled(indented, colour), end="", soft_wrap=True)
            self._lead = ""


def show_summary(output: RequestOutput, stats: Stats, seconds: float, console: Console) -> None:
    """Steps, tokens and seconds by model; hand-overs, catch-up, speed; proposals, where there were any."""
    completion = output.outputs[0]
    table = Table(title=f"finished: {completion.finish_reason}" + (f" ({output.error})" if output.error else ""))
    for column in ("", "small", "large", "both"):
        table.add_column(column, justify="right" if column else "left")
    small, large = stats.small, stats.large
    for name, field, form in (
        ("steps", "steps_written", "d"),
        ("tokens", "tokens_written", "d"),
        ("catch-up tokens", "catch_up_tokens", "d"),
        ("forwards", "num_forwards", "d"),
        ("seconds", "seconds", ".2f"),
    ):
        values = (getattr(small, field), getattr(large, field))
        table.add_row(name, *(format(value, form) for value in (*values, sum(values))))
    console.print(table)
    speed = len(completion.token_ids) / seconds
    console.print(f"{stats.hand_overs} hand-overs, {seconds:.2f} s, {speed:.1f} tokens/s")
    counts = [
        f"{proposer} {each.accepted_tokens} of {each.proposed_tokens}"
        for proposer, each in stats.proposers.items()
        if each.proposed_tokens
    ]
    if counts:
        console.print(f"accepted proposals: {', '.join(counts)}")
