"""Build msgspec types from nodes, to decode `params` that are valid beyond doubt: they accept less, never more."""

from __future__ import annotations

import typing
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec

from abatch.input.param_types import Anything, Either, Entries, Fields, Items, Node, OneOf, Plain

if typing.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["NoQuickForm", "QuickTypes", "not_empty"]


class NoQuickForm(Exception):
    """This node has no quick form, so rows with such a value are examined one by one."""


class QuickTypes:
    """Builds msgspec types from nodes. A type may accept less than its node, never more."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, bool], Any] = {}

    def type(self, node: Node) -> Any:  # noqa: ANN401 - a type that is made at run time
        """Return the type of a node; raise NoQuickForm if it has none."""
        match node:
            case Anything():
                return Any
            case Plain(kind):
                return kind
            case OneOf(values):
                if not all(type(value) in (str, int) for value in values):
                    raise NoQuickForm
                return Literal[values]
            case Items(of):
                return list.__class_getitem__(self.type(of))
            case Entries(of):
                return dict.__class_getitem__((str, self.type(of)))
            case Fields():
                return self.struct(node, tagged=False)
            case Either(nodes):
                return self._either(nodes)

    def _either(self, nodes: Sequence[Node]) -> Any:  # noqa: ANN401 - a type that is made at run time
        flat = [each for node in nodes for each in (node.nodes if isinstance(node, Either) else (node,))]
        objects = [node for node in flat if isinstance(node, Fields | Entries)]
        if any(isinstance(node, Anything) for node in flat):
            return Any
        kinds: dict[object, Any] = {}
        for node in flat:
            if not isinstance(node, Fields | Entries):
                kind = list if isinstance(node, Items) else node.type if isinstance(node, Plain) else Literal
                kinds.setdefault(kind, node)
        if str in kinds:  # Any string is accepted, so the literal strings are accepted, too.
            kinds.pop(Literal, None)
        taken = [self.type(node) for node in kinds.values()]
        taken += self._objects(objects)
        if not taken:
            raise NoQuickForm
        return typing.Union[tuple(taken)]  # noqa: UP007 - of as many as there are

    def _objects(self, nodes: list[Fields | Entries]) -> list[Any]:
        """Return the types of the objects that one decoder can distinguish: those with tags, or else a single one."""
        if (loose := next((node for node in nodes if isinstance(node, Entries)), None)) is not None:
            return [self.type(loose)]
        fields = [node for node in nodes if isinstance(node, Fields)]
        untagged = [node for node in fields if node.tag is None]
        if untagged or len(fields) < 2:
            return [self.struct(node, tagged=False) for node in (untagged or fields)[:1]]
        tag = fields[0].tag
        assert tag is not None
        taken: dict[object, Any] = {}
        for node in fields:
            if node.tag is not None and node.tag[0] == tag[0] and node.tag[1] not in taken:
                try:
                    taken[node.tag[1]] = self.struct(node, tagged=True)
                except NoQuickForm:
                    continue
        return list(taken.values())

    def struct(self, node: Fields, *, tagged: bool) -> Any:  # noqa: ANN401 - a type that is made at run time
        """Return a struct of these fields; `tagged` if other objects may occur in its place."""
        key = id(node), tagged
        if key not in self._made:
            self._made[key] = None  # A recursive struct has no quick form.
            self._made[key] = self._struct(node, tagged=tagged)
        if self._made[key] is None:
            raise NoQuickForm
        return self._made[key]

    def _struct(self, node: Fields, *, tagged: bool) -> Any:  # noqa: ANN401 - a type that is made at run time
        if node.open or node.tag == ("role", "system"):
            return None
        required: list[Any] = []
        optional: list[Any] = []
        for name, (of, is_required) in node.of.items():
            if tagged and node.tag is not None and name == node.tag[0]:
                continue
            try:
                made = self.type(of)
            except NoQuickForm:
                if is_required:
                    return None
                continue
            if is_required and name in _NOT_EMPTY.get(node.tag and node.tag[0], ()):
                made = not_empty(made)
            (required if is_required else optional).append((name, made) if is_required else (name, made, None))
        return msgspec.defstruct(
            "Quick",
            [*required, *optional],
            tag_field=node.tag[0] if tagged and node.tag else None,
            tag=str(node.tag[1]) if tagged and node.tag else None,
            forbid_unknown_fields=True,
            gc=False,
        )


_NOT_EMPTY: Final[Mapping[object, tuple[str, ...]]] = {"role": ("content",), "type": ("text",)}
"""Fields that must not be empty, by the name of their object's tag."""


def not_empty(made: Any) -> Any:  # noqa: ANN401 - a type that is made at run time
    """Return the type without its empty strings and lists."""
    kinds = get_args(made) if get_origin(made) is typing.Union else (made,)
    parts = [
        Annotated[kind, msgspec.Meta(min_length=1)] if kind is str or get_origin(kind) is list else kind
        for kind in kinds
    ]
    return typing.Union[tuple(parts)]  # noqa: UP007 - of as many as there are
