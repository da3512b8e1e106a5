"""Models as clients name them: NAME, and NAME@ROUTER for each way of routing."""

from glimp_engine.errors import ConfigError
from glimp_engine.routing import LargeOnly, Router, RoutingParams, SmallOnly, parse_router
from glimp_engine.serving.problems import ApiError

__all__ = ["ServedModels"]

LISTED = ("small", "large", "glimp:0.5")


class ServedModels:
    """One pair under its names, and which router each means."""

    def __init__(self, names: list[str], default: RoutingParams, has_large: bool) -> None:
        """names: all mean the pair, the first is told; default: what a bare name means."""
        for name in names:
            if not name or "@" in name:
                raise ConfigError(f"served_model_name is {name!r}; allowed: a name without @, which a router follows")
        self.names = names
        self.default = default
        self._has_large = has_large

    @property
    def listed(self) -> list[str]:
        """What `/v1/models` says: each name, alone and with some routers; any other router may follow it, too."""
        routers = LISTED if self._has_large else ()
        return [each for name in self.names for each in (name, *(f"{name}@{router}" for router in routers))]

    def router_of(self, name: str | None, seed: int) -> Router:
        """The router that a name means; None is the first name.

        Raises: ApiError 404 on a name that isn't served, or a router that is none.
        """
        base, _, spec = (name or self.names[0]).partition("@")
        if base not in self.names:
            raise ApiError(
                404, f"model is {name!r}; allowed: {', '.join(self.listed)}", param="model", code="model_not_found"
            )
        if not spec:
            return self.default.router
        try:
            router = parse_router(spec, seed)
        except ConfigError as error:
            raise ApiError(404, f"model is {name!r}: {error}", param="model", code="model_not_found") from None
        if not self._has_large and not isinstance(router, SmallOnly):
            raise ApiError(404, f"model is {name!r}, and there is no large model", "model", "model_not_found")
        return router

    def is_of_large(self, name: str | None) -> bool:
        """Whether the name means the large model alone, whose vocabulary its token ids are then in."""
        return isinstance(self.router_of(name, 0), LargeOnly)
