"""The SDK's parameter types as nodes, which describe the JSON that each part of `params` may hold."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args, get_origin

import typing_extensions

__all__ = ["Anything", "Builder", "Either", "Entries", "Fields", "Items", "Node", "OneOf", "Plain"]


@dataclass(frozen=True, slots=True)
class Anything:
    """Any JSON."""


@dataclass(frozen=True, slots=True)
class Plain:
    """One JSON type without parts: `str`, `int`, `float`, `bool` or `None`."""

    type: type


@dataclass(frozen=True, slots=True)
class OneOf:
    """Exactly one of these values."""

    values: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    of: Node


@dataclass(frozen=True, slots=True)
class Entries:
    """An object with any names."""

    of: Node


@dataclass(slots=True, eq=False)
class Fields:
    """An object with these names."""

    of: dict[str, tuple[Node, bool]] = field(default_factory=dict[str, tuple["Node", bool]])
    """The node of each name, and whether the name is required."""
    tag: tuple[str, object] | None = None
    """The name and value that distinguish this object from others in the same place."""
    open: bool = False
    """Whether other names are allowed, too."""


@dataclass(frozen=True, slots=True)
class Either:
    """JSON that fits any one of these nodes."""

    nodes: tuple[Node, ...]


Node: TypeAlias = Anything | Plain | OneOf | Items | Entries | Fields | Either

_WRAPPERS: Final = (Annotated, typing_extensions.Required, typing_extensions.NotRequired)
_LISTS: Final = frozenset({list, Sequence, Iterable})


class Builder:
    """Builds nodes from type hints; each TypedDict is built once."""

    def __init__(self) -> None:
        self._made: dict[type, Fields] = {}

    def node(self, hint: Any) -> Node | None:  # noqa: ANN401 - a type hint has no type of its own
        """Return the node of a hint; None if JSON cannot hold its values, such as an open file."""
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in _WRAPPERS:
            return self.node(arguments[0])
        if origin in (typing.Union, types.UnionType):
            nodes = tuple(node for each in arguments if (node := self.node(each)) is not None)
            return Either(nodes) if nodes else None
        if origin is Literal:
            return OneOf(arguments)
        if origin in _LISTS:
            return Items(self.node(arguments[0]) or Anything())
        if origin in (dict, Mapping):
            return Entries(self.node(arguments[1]) or Anything())
        if hint in (object, Any, dict):
            return Anything()
        if hint in (str, int, float, bool, type(None)):
            return Plain(hint)
        return self.fields(hint) if typing_extensions.is_typeddict(hint) else None

    def fields(self, hint: type) -> Fields:
        """Return the node of a TypedDict."""
        if (made := self._made.get(hint)) is not None:
            return made
        made = self._made[hint] = Fields(open=dict(getattr(hint, "__pydantic_config__", {})).get("extra") == "allow")
        always: frozenset[str] = hint.__required_keys__  # type: ignore[attr-defined]
        for name, each in typing_extensions.get_type_hints(hint, include_extras=True).items():
            node = self.node(each) or Anything()
            # __required_keys__ does not see Required in annotations that are strings.
            wrapper: Any = get_origin(each)
            required = wrapper is typing_extensions.Required or name in always
            made.of[name] = node, required
            if required and isinstance(node, OneOf) and len(node.values) == 1 and name in ("type", "role"):
                made.tag = name, node.values[0]
        return made
