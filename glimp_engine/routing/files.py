"""A routing file: a router for one pair of models, what it was chosen for, and how sure that is. JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from glimp_engine.errors import ConfigError
from glimp_engine.routing.routers import Router
from glimp_engine.routing.specs import parse_router

__all__ = ["RoutingFile"]

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

    def router_for(self, fingerprints: dict[str, str]) -> Router:
        """The router, for the pair with these fingerprints.

        Raises: ConfigError when the file was made for another pair.
        """
        for name, known in (("small", self.small), ("large", self.large)):
            if fingerprints[name] != self.fingerprints[name]:
                raise ConfigError(
                    f"routing was made for {self.small} with {self.large}; "
                    f"{name} is another model now than {known}: {REMEDY} for this pair"
                )
        return parse_router(self.router)
