"""A routing file: a router for one pair of models, what it was chosen for, and how sure that is. JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from glimp_engine.errors import ConfigError, check_count, check_fields, check_finite, check_text
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
        """Raises: ConfigError that names the file and the key when there is no such file, or it's none."""
        try:
            loaded = json.loads(path.read_text(encoding="utf-8"))
            check(loaded)
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"routing is {str(path)!r}, which isn't a routing file ({error}); {REMEDY}") from None
        return cls(**{**loaded, "threshold_interval": tuple(loaded["threshold_interval"])})

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


def check(loaded: Any) -> None:
    """Raise ConfigError unless a file has what is read of it, each key with a value of its kind."""
    version = loaded.get("version", VERSION) if isinstance(loaded, dict) else VERSION
    if version != VERSION or isinstance(version, bool):
        raise ConfigError(f"version is {version!r}; allowed: {VERSION}")
    check_fields("", loaded, CHECKS)
    for key in loaded.keys() - CHECKS.keys() - {"version"}:
        raise ConfigError(f"{key!r} is no key of it; allowed: {', '.join(CHECKS)}, version")


def check_fingerprints(name: str, value: Any) -> None:
    check_fields(f"{name}.", value, {"small": check_text, "large": check_text})


def check_router(name: str, value: Any) -> None:
    check_text(name, value)
    try:
        parse_router(value)
    except ConfigError as error:
        raise ConfigError(f"{name} is {value!r}: {error}") from None


def check_interval(name: str, value: Any) -> None:
    check_numbers(name, value, 2)


def check_predicted(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{name} is {value!r}; allowed: an object")
    for key, numbers in value.items():
        check_numbers(f"{name}.{key}", numbers, 3)


def check_numbers(name: str, value: Any, count: int) -> None:
    if not isinstance(value, list) or len(value) != count:
        raise ConfigError(f"{name} is {value!r}; allowed: {count} numbers")
    for i, each in enumerate(value):
        check_finite(f"{name}[{i}]", each)


CHECKS = {
    "small": check_text,
    "large": check_text,
    "fingerprints": check_fingerprints,
    "router": check_router,
    "target": check_text,
    "threshold_interval": check_interval,
    "predicted": check_predicted,
    "measured_on": check_text,
    "num_problems": check_count,
}
