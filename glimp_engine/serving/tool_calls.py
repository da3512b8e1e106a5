from dataclasses import dataclass


@dataclass
class ContentDelta:
    text: str


@dataclass
class CallDelta:
    index: int
    id: str | None
    name: str | None
    arguments: str


class ToolCallParser: ...


def find_parser(*a):
    return None
