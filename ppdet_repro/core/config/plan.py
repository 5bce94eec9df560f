"""The outcome of checking a config: what every value will be, and where it was written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Collection, Dict, Iterator, Optional, Tuple

from ppdet_repro.core.config.components import Component
from ppdet_repro.core.config.document import Origin


@dataclass(frozen=True)
class FromUpstream:
    """The value of an `Upstream` parameter that the YAML leaves to the previous part."""


@dataclass(frozen=True)
class Setting:
    """A value and where it was written."""

    value: Any  # a scalar, an `Expression`, a `FromUpstream`, a `Plan`, or a list, tuple or dict of settings
    origin: Optional[Origin] = None  # None for a default

    def children(self) -> Collection[Setting]:
        """The settings inside a component, list, tuple or dict; empty for any other value."""
        value = self.value.settings if isinstance(self.value, Plan) else self.value
        if isinstance(value, dict):
            return value.values()
        return value if isinstance(value, (list, tuple)) else ()

    def has_parts(self) -> bool:
        """Whether a component has to be built for this value."""
        return isinstance(self.value, Plan) or any(child.has_parts() for child in self.children())

    def plain(self) -> Any:
        """The value as fresh plain data. It must not contain components."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, (list, tuple)):
            return type(self.value)(item.plain() for item in self.value)
        return self.value

    def written(self, path: str) -> Iterator[Tuple[str, Origin]]:
        """The dotted path and the origin of every value in this setting that somebody wrote.

        Paths start at `path`; the parameters of a component start at its name, wherever it is used.
        """
        if self.origin is not None:
            yield path, self.origin
        value = self.value
        if isinstance(value, Plan):
            path, value = value.component.name, value.settings
        if isinstance(value, dict):
            for name, setting in value.items():
                yield from setting.written(f"{path}.{name}")
        else:
            for setting in self.children():
                yield from setting.written(path)


@dataclass(frozen=True)
class Plan:
    """A component to build: a setting for each parameter, and the place in the config that asks for it."""

    component: Component
    settings: Dict[str, Setting]
    origin: Optional[Origin] = None
