"""The routers that an evaluation compares, as `--routers` names them; all are read before the first of them runs."""

from glimp_engine.errors import ConfigError
from glimp_engine.routing import parse_router

__all__ = ["check_spec", "read_routers"]

CONTROL = "random@"  # and a router: as many steps by the large model as that one has given it


def read_routers(text: str, has_large: bool) -> list[str]:
    """The specs of a list with commas.

    Raises: ConfigError on one that is none, is there twice, takes a large model that isn't given, or is the control of
            a router that isn't before it.
    """
    specs = text.split(",")
    for position, spec in enumerate(specs):
        check_spec(spec)
        if spec.startswith(CONTROL) and spec.removeprefix(CONTROL) not in specs[:position]:
            raise ConfigError(f"router is {spec!r}; allowed: {CONTROL} and a router that stands before it in the list")
        if spec in specs[:position]:
            raise ConfigError(f"routers is {text!r}, which has {spec!r} twice; allowed: each router once")
        if not has_large and spec != "small":
            raise ConfigError(f"routers is {text!r}, and --large isn't given; allowed then: small")
    return specs


def check_spec(spec: str) -> None:
    """Raise ConfigError unless an evaluation can have a router of that name."""
    if not spec.startswith(CONTROL):
        parse_router(spec)
