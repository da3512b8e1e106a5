"""One answer as a page: `glimp run --json`'s output drawn with trace_page.html, which needs nothing from elsewhere."""

import json
from pathlib import Path
from typing import Any

from glimp_engine.errors import ConfigError

__all__ = ["trace_page"]

TEMPLATE = Path(__file__).with_suffix(".html")
PLACE = "/*RUN*/"
NEEDED = ("prompt_text", "outputs", "seconds", "stats", "ticks")
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}  # what a model wrote can't end the script it stands in


def trace_page(path: Path) -> str:
    """The page of the run in this file.

    Raises: ConfigError when the file has no run in it.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected the output of `glimp run --json`, found {error}") from None
    missing = [name for name in NEEDED if not isinstance(run, dict) or name not in run]
    if missing:
        raise ConfigError(f"{path}: expected the output of `glimp run --json`, found no {', '.join(missing)}")
    return TEMPLATE.read_text(encoding="utf-8").replace(PLACE, embedded(run))


def embedded(run: dict[str, Any]) -> str:
    """JSON that is safe within a script element."""
    text = json.dumps(run, separators=(",", ":"))
    for character, escape in ESCAPES.items():
        text = text.replace(character, escape)
    return text
