"""Find where a value of `params` differs from the SDK's types, and whether the API is certain to refuse it."""

from __future__ import annotations

import difflib
import typing
from functools import lru_cache
from typing import Any, Final, NamedTuple

from abatch.input.param_types import Anything, Either, Entries, Fields, Items, Node, OneOf, Plain

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Finding", "hint_of", "is_list", "is_object", "look_at", "null", "shortened", "unknown", "weight"]

NEAR: Final = 0.6
SHOWN: Final = 60
"""The number of characters of a name or value that a finding shows."""
_NAMES: Final[dict[type, str]] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
}


class Finding(NamedTuple):
    """One thing that is wrong, or may be wrong, with the params of a request."""

    why: str
    certain: bool
    """Whether the API is certain to refuse it; otherwise the API may be newer than the installed SDK."""
    refused: bool = True
    """Whether an API that knows no more than the installed SDK refuses it."""


def is_list(value: object) -> typing.TypeGuard[list[Any]]:
    """Return whether a JSON value is a list."""
    return isinstance(value, list)


def is_object(value: object) -> typing.TypeGuard[dict[str, Any]]:
    """Return whether a JSON value is an object."""
    return isinstance(value, dict)


def null(path: str) -> Finding:
    """Report that a value is null and should be left out."""
    return Finding(f"{path} is null; leave it out", certain=False, refused=False)


def weight(found: list[Finding]) -> tuple[int, int]:
    """Return how severe findings are, so that the least severe can be chosen."""
    return sum(each.certain for each in found), len(found)


def look_at(node: Node, value: object, path: str, known_long: bool, sdk: str) -> list[Finding]:
    """Return the findings about a value and the values in it; `path` names it in their texts."""
    match node:
        case Anything():
            return []
        case Items(of) if is_list(value):
            return [
                each
                for number, item in enumerate(value)
                for each in look_at(of, item, f"{path}[{number}]", known_long, sdk)
            ]
        case Entries(of) if is_object(value):
            items = value.items()
            return [each for name, item in items for each in look_at(of, item, f"{path}.{name}", known_long, sdk)]
        case Fields() if is_object(value):
            return _look_at_fields(node, value, path, known_long, sdk)
        case OneOf(values) if type(value) in set(map(type, values)):
            return [] if value in values else [_other_value(value, values, path, sdk)]
        case Plain(kind) if _is(value, kind):
            return []
        case Either(nodes):
            return _look_at_either(nodes, value, path, known_long, sdk)
        case _:
            return [_wrong_type((node,), value, path, known_long)]


def _look_at_fields(node: Fields, value: dict[str, Any], path: str, known_long: bool, sdk: str) -> list[Finding]:
    found: list[Finding] = []
    for name, (of, required) in node.of.items():
        if name not in value:
            if required:
                found.append(Finding(f"{path}.{name} is missing", certain=known_long))
        elif value[name] is None and not required:
            if look_at(of, None, "", known_long, sdk):
                found.append(null(f"{path}.{name}"))
        else:
            found += look_at(of, value[name], f"{path}.{name}", known_long, sdk)
    if not node.open:
        found += [unknown(name, node.of, path, sdk) for name in value if name not in node.of]
    return found


def _look_at_either(nodes: Sequence[Node], value: object, path: str, known_long: bool, sdk: str) -> list[Finding]:
    flat = [each for node in nodes for each in (node.nodes if isinstance(node, Either) else (node,))]
    fitting = [node for node in flat if _fits(node, value)]
    if not fitting:
        return [_wrong_type(flat, value, path, known_long)]
    if is_object(value):
        objects = [node for node in fitting if isinstance(node, Fields)]
        tags = {node.tag for node in objects if node.tag is not None}
        if tags and len(objects) == len(fitting):
            (name, *_) = sorted({name for name, _ in tags})
            given = value.get(name)
            if any(node.tag == (name, given) for node in objects):
                fitting = [node for node in objects if node.tag == (name, given)]
            elif all(node.tag is not None for node in objects):
                return [_no_such_object(given, [each for _, each in tags], f"{path}.{name}", known_long, sdk)]
            elif given is not None:
                return [_other_value(given, [each for _, each in tags], f"{path}.{name}", sdk)]
            else:
                fitting = [node for node in objects if node.tag is None]
    return min((look_at(node, value, path, known_long, sdk) for node in fitting), key=weight)


def _no_such_object(given: object, known: list[object], path: str, known_long: bool, sdk: str) -> Finding:
    if given is None:
        return Finding(f"{path} is missing", certain=known_long)
    if not isinstance(given, str):
        return Finding(f"{path} must be a string, it is {_named(given)}", certain=known_long)
    return _other_value(given, known, path, sdk)


def _fits(node: Node, value: object) -> bool:
    match node:
        case Anything():
            return True
        case Plain(kind):
            return _is(value, kind)
        case OneOf(values):
            return type(value) in set(map(type, values))
        case Items():
            return isinstance(value, list)
        case Entries() | Fields():
            return isinstance(value, dict)
        case Either(nodes):
            return any(_fits(each, value) for each in nodes)


def _is(value: object, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind or (kind is int and isinstance(value, float) and value.is_integer())


def _wrong_type(nodes: Sequence[Node], value: object, path: str, known_long: bool) -> Finding:
    wanted = dict.fromkeys(_wanted(node) for node in nodes)
    return Finding(f"{path} must be {' or '.join(wanted)}, it is {_named(value)}", certain=known_long)


def _wanted(node: Node) -> str:
    match node:
        case Plain(kind):
            return _NAMES[kind]
        case OneOf(values):
            return " or ".join(f"`{value}`" for value in values) if len(values) < 4 else _NAMES[type(values[0])]
        case Items():
            return _NAMES[list]
        case Entries() | Fields():
            return _NAMES[dict]
        case Anything():
            return "anything"
        case Either(nodes):
            return " or ".join(map(_wanted, nodes))


def _named(value: object) -> str:
    return "a number" if type(value) is int else _NAMES[type(value)]


def unknown(name: str, known: Iterable[str], path: str, sdk: str) -> Finding:
    """Report that a name is unknown."""
    hint = hint_of(name, frozenset(known))
    place = f"`{shortened(name)}` in {path}" if path else f"`{shortened(name)}`"
    return Finding(f"{place} is not a name that {sdk} knows{hint}", certain=False)


def _other_value(value: object, known: Iterable[object], path: str, sdk: str) -> Finding:
    hint = hint_of(str(value), frozenset(each for each in known if isinstance(each, str)))
    return Finding(f"{path} `{shortened(str(value))}` is not one that {sdk} knows{hint}", certain=False)


@lru_cache(maxsize=1000)
def hint_of(name: str, known: frozenset[str]) -> str:
    """Return a question that suggests the nearest known name; it is cached, because every row may need the same one."""
    near = difflib.get_close_matches(name[:SHOWN], sorted(known), 1, NEAR)
    return f"; did you mean `{near[0]}`?" if near else ""


def shortened(text: str) -> str:
    """Shorten a name or value to the length that a finding shows."""
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
