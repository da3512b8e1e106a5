"""A routing file: a router for one pair of models, what it was chosen for, and how sure that is. JSON."""

import json
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from glimp_engine.checkpoint import locate
from glimp_engine.errors import ConfigError
from glimp_engine.fingerprint import fingerprint
from glimp_engine.router_specs import parse_router
from glimp_engine.routers import Router

__all__ = ["RoutingFile", "load_router"]

VERSION = 1
REMEDY = "make one with `glimp calibrate`"


@dataclass(frozen=True)
class RoutingFile:
    """What `glimp calibrate` proposes."""

    small: str  # as it was given
    large: str
    fingerprints: dict[str, str]  # of small and large
    router: str  # a spec
    target: str  # as it was asked for
    threshold_interval: tuple[float, float]  # 95%
    predicted: dict[str, Any]  # name -> value and interval
    measured_on: str
    num_problems: int
    version: int = VERSION

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "RoutingFile":
        """Raises: ConfigError when there is no such file, or it's none."""
        try:
            loaded = json.loads(path.read_text(encoding="utf-8"))
            found = cls(**loaded)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"routing is {str(path)!r}, which isn't a routing file ({error}); {REMEDY}") from None
        if found.version != VERSION:
            raise ConfigError(f"{path}: version is {found.version!r}; allowed: {VERSION}")
        return found


def load_router(path: str | PathLike[str], small: object, large: object) -> Router:
    """The router of a routing file, for the pair that it was made for.

    Raises: ConfigError when it was made for another pair, or the models aren't given as checkpoints.
    """
    routing = RoutingFile.load(Path(path))
    for name, source, known in (("small", small, routing.small), ("large", large, routing.large)):
        if not isinstance(source, (str, PathLike)):
            raise ConfigError(f"routing is {str(path)!r} and {name} is {source!r}; allowed then: a path or a hub id")
        if fingerprint(locate(source)) != routing.fingerprints[name]:
            raise ConfigError(
                f"routing is {str(path)!r}, made for {routing.small} with {routing.large}; "
                f"{name} is {str(source)!r} now, another model than {known}: {REMEDY} for this pair"
            )
    return parse_router(routing.router)
