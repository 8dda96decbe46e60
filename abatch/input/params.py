"""Check `params` against the SDK's own parameter types, before anything is sent.

The table is built once from the TypedDicts of the installed SDK, so a newer SDK knows newer parameters. It has two
forms. `Table.read_lines` is a msgspec decoder for whole lines, which takes only what is beyond doubt: most rows cost
nothing more. What it does not take is looked at by itself (`Table.look`), and each finding says whether the API is
certain to refuse the request, or whether the API may merely be newer than this SDK.

Certain are: what is missing or empty, a value of the wrong JSON type in a parameter that the API has had for years, and
arguments of the SDK that are no part of a request's body. An unknown name, `type` or value is not certain.
"""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, get_args, get_origin

import msgspec
import typing_extensions

from abatch.errors import BadRequest
from abatch.input.problems import Problems

if typing.TYPE_CHECKING:
    from abatch.config import Params
    from abatch.errors import Alike
    from abatch.input.request import Row

__all__ = ["Check", "Finding", "Table", "check_of", "read_json", "table"]

LONG_KNOWN: Final = frozenset(
    {
        "model",
        "max_tokens",
        "messages",
        "system",
        "stop_sequences",
        "metadata",
        "temperature",
        "top_k",
        "top_p",
        "tools",
        "tool_choice",
    }
)
"""Parameters whose JSON types are not going to change: a wrong one is certain to be refused."""
OLDER: Final[Mapping[str, object]] = {"temperature": float, "top_k": int, "top_p": float}
"""Parameters that the API takes for older models, and that the SDK's types do not list any more."""
NEED_A_BETA: Final = frozenset({"output_format"})
"""Parameters that the API takes with a beta, and that the SDK's types of a create do not list."""
NOT_IN_A_BATCH: Final = ("speed", "fallbacks")
HEADERS_OF_A_BATCH: Final = "headers belong to a whole batch"
SDK_ARGUMENTS: Final = {
    "betas": "it is a header: put `betas` on the line's top level, beside params, or use --beta (betas= of submit)",
    "extra_headers": f"{HEADERS_OF_A_BATCH}: for anthropic-beta put `betas` on the line's top level, beside params, or "
    "use --beta; for a workspace use --workspace; no other header can be sent",
    "extra_query": "a request in a batch has no query; remove it",
    "extra_body": "put its fields into params themselves",
    "timeout": "a request in a batch has no time limit of its own; remove it",
    "workspace_id": f"{HEADERS_OF_A_BATCH}: use --workspace (workspace_id= of submit)",
}
"""Arguments of `messages.create` that are not sent in the body, and the option that does what they do."""
NEAR: Final = 0.6
SHOWN: Final = 60
"""Characters of a name or value that a finding repeats."""


class Finding(NamedTuple):
    """One thing that is wrong, or may be wrong, with the params of a request."""

    why: str
    certain: bool
    """Whether the API refuses it for certain; else it may be newer than the installed SDK."""
    refused: bool = True
    """Whether an API that knows no more than the installed SDK refuses it."""


# ---- the table, as nodes --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Anything:
    """Any JSON."""


@dataclass(frozen=True, slots=True)
class Plain:
    """One JSON type without parts: `str`, `int`, `float`, `bool` or `None`."""

    type: type


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of these values."""

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
    """Each with whether it is required."""
    tag: tuple[str, object] | None = None
    """The name and value that tell this object from others in the same place."""
    open: bool = False
    """Whether other names may stand there, too."""


@dataclass(frozen=True, slots=True)
class Either:
    """One of these."""

    nodes: tuple[Node, ...]


Node: TypeAlias = Anything | Plain | OneOf | Items | Entries | Fields | Either

_WRAPPERS: Final = (Annotated, typing_extensions.Required, typing_extensions.NotRequired)
_LISTS: Final = frozenset({list, Sequence, Iterable})
_NAMES: Final[dict[type, str]] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
}


class _Builder:
    """Makes nodes of type hints; each TypedDict once."""

    def __init__(self) -> None:
        self._made: dict[type, Fields] = {}

    def node(self, hint: Any) -> Node | None:  # noqa: ANN401 - a type hint has no type of its own
        """The node of a hint; None for what JSON does not hold, such as an open file."""
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in _WRAPPERS:  # Required and NotRequired, too
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
        """The node of a TypedDict."""
        if (made := self._made.get(hint)) is not None:
            return made
        made = self._made[hint] = Fields(open=dict(getattr(hint, "__pydantic_config__", {})).get("extra") == "allow")
        always: frozenset[str] = hint.__required_keys__  # type: ignore[attr-defined]
        for name, each in typing_extensions.get_type_hints(hint, include_extras=True).items():
            node = self.node(each) or Anything()
            # the keys do not tell where annotations are strings
            wrapper: Any = get_origin(each)
            required = wrapper is typing_extensions.Required or name in always
            made.of[name] = node, required
            if required and isinstance(node, OneOf) and len(node.values) == 1 and name in ("type", "role"):
                made.tag = name, node.values[0]
        return made


# ---- what is beyond doubt, as one decoder ---------------------------------------------------------------------


class _NotTaken(Exception):
    """This node has no quick form: rows that hold such a value are looked at by themselves."""


class _Quick:
    """Makes msgspec types of nodes. They may take less than the node, never more."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, bool], Any] = {}

    def type(self, node: Node) -> Any:  # noqa: ANN401 - a type that is made at run time
        match node:
            case Anything():
                return Any
            case Plain(kind):
                return kind
            case OneOf(values):
                if not all(type(value) in (str, int) for value in values):
                    raise _NotTaken
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
        if str in kinds:  # a string of any value takes the named ones, too
            kinds.pop(Literal, None)
        taken = [self.type(node) for node in kinds.values()]
        taken += self._objects(objects)
        if not taken:
            raise _NotTaken
        return typing.Union[tuple(taken)]  # noqa: UP007 - of as many as there are

    def _objects(self, nodes: list[Fields | Entries]) -> list[Any]:
        """The objects that one decoder can tell apart: those with tags, or else one."""
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
                except _NotTaken:
                    continue
        return list(taken.values())

    def struct(self, node: Fields, *, tagged: bool) -> Any:  # noqa: ANN401 - a type that is made at run time
        """A struct of these fields; `tagged` if others may stand in its place."""
        key = id(node), tagged
        if key not in self._made:
            self._made[key] = None  # one that holds itself has no quick form
            self._made[key] = self._struct(node, tagged=tagged)
        if self._made[key] is None:
            raise _NotTaken
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
            except _NotTaken:
                if is_required:
                    return None
                continue
            if is_required and name in _NOT_EMPTY.get(node.tag and node.tag[0], ()):
                made = _not_empty(made)
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
"""Fields that must hold something, by the name of their object's tag."""


def _not_empty(made: Any) -> Any:  # noqa: ANN401 - a type that is made at run time
    kinds = get_args(made) if get_origin(made) is typing.Union else (made,)
    parts = [
        Annotated[kind, msgspec.Meta(min_length=1)] if kind is str or get_origin(kind) is list else kind
        for kind in kinds
    ]
    return typing.Union[tuple(parts)]  # noqa: UP007 - of as many as there are


# ---- looking at one request -----------------------------------------------------------------------------------


class Table:
    """What the installed SDK knows of the parameters of a request."""

    def __init__(self, sdk: str, usual: type, with_betas: type, models: Iterable[str]) -> None:
        self.sdk = f"anthropic {sdk}"
        self.models = frozenset(models)
        builder = _Builder()
        self._usual = dict(builder.fields(usual).of)
        for name, hint in OLDER.items():
            self._usual.setdefault(name, (builder.node(hint) or Anything(), False))
        for name in (*SDK_ARGUMENTS, "stream"):
            self._usual.pop(name, None)
        self._with_betas = {
            name: node for name, node in builder.fields(with_betas).of.items() if name not in (*SDK_ARGUMENTS, "stream")
        }
        self._with_betas |= {name: (Anything(), False) for name in NEED_A_BETA}
        self._known = frozenset({*self._usual, *self._with_betas})
        self.read_lines = msgspec.json.Decoder(self._line()).decode_lines
        """Reads whole lines, and raises unless their params, but for the model's name, are beyond doubt."""
        self.read = msgspec.json.Decoder(self._quick).decode
        """Reads params, and raises unless these are beyond doubt, but for the model's name."""

    def _line(self) -> Any:  # noqa: ANN401 - a type that is made at run time
        quick = _Quick()
        fields: list[Any] = []
        for name, (node, _) in self._usual.items():
            if name in NOT_IN_A_BATCH or name in ("model", "max_tokens", "messages"):
                continue
            try:
                fields.append((name, quick.type(node), None))
            except _NotTaken:
                continue
        messages = _not_empty(quick.type(self._usual["messages"][0]))
        self._quick = msgspec.defstruct(
            "QuickParams",
            [
                ("model", str),
                ("max_tokens", Annotated[int, msgspec.Meta(ge=1)]),
                ("messages", messages),
                ("stream", bool | None, None),
                *fields,
            ],
            forbid_unknown_fields=True,
            gc=False,
        )
        return msgspec.defstruct(
            "QuickLine",
            [("custom_id", str | int), ("params", self._quick), ("betas", tuple[str, ...], ())],
            forbid_unknown_fields=True,
            gc=False,
        )

    def doubt_of(self, model: str) -> Finding | None:
        """What is doubtful of a model's name."""
        if model in self.models:
            return None
        hint = _hint(model.lower().rpartition("/")[2], self.models)
        return Finding(f"model `{_cut(model)}` is not one that {self.sdk} knows{hint}", certain=False, refused=False)

    def look(self, params: Mapping[str, Any], *, betas: bool) -> list[Finding]:
        """Everything that is wrong, or may be, with these params.

        Args:
            params: as they were read from JSON.
            betas: whether the request is sent with an `anthropic-beta` header.

        """
        found = [
            Finding(f"{name} is missing", certain=True) for name in ("model", "messages") if params.get(name) is None
        ]
        for name, value in params.items():
            found += self._parameter(name, value, betas=betas)
        return found

    def _parameter(self, name: str, value: object, *, betas: bool) -> list[Finding]:
        if name in ("max_tokens", "stream"):  # checked where the line is read
            return []
        if name in SDK_ARGUMENTS:
            return [Finding(f"`{name}` is no parameter of a request in a batch; {SDK_ARGUMENTS[name]}", certain=True)]
        if name in NOT_IN_A_BATCH:
            return (
                [] if value is None else [Finding(f"`{name}` is not possible in a batch; leave it out", certain=True)]
            )
        usual, with_betas = self._usual.get(name), self._with_betas.get(name)
        if usual is None and with_betas is None:
            return [_unknown(name, self._known, "", self.sdk)]
        if value is None and name in ("model", "messages"):  # told as missing
            return []
        found = self._least(name, value, usual, with_betas)
        if value is None and found:
            found = [_null(name)]
        if usual is None and not betas:
            why = f"`{name}` needs a beta: name it in `betas` on the line's top level, beside params, or with --beta"
            found = [Finding(why, certain=False, refused=False), *found]
        match name, value:
            case "model", str() if (doubt := self.doubt_of(value)) is not None:
                return [*found, doubt]
            case "messages", _ if _is_list(value):
                return [*found, *_about_messages(value)]
            case _:
                return found

    def _least(self, name: str, value: object, *known: tuple[Node, bool] | None) -> list[Finding]:
        """What the types of the usual API, or else those with betas, find of a value: what is less."""
        least: list[Finding] | None = None
        for node, _ in filter(None, known):
            found = _look(node, value, name, name in LONG_KNOWN, self.sdk)
            if not found:
                return found
            least = found if least is None else min(least, found, key=_weight)
        return least or []


def _about_messages(messages: list[Any]) -> list[Finding]:
    """What the types do not say: what must not be empty, and where a system prompt belongs."""
    if not messages:
        return [Finding("messages is empty; the API needs at least one", certain=True)]
    found: list[Finding] = []
    for number, message in enumerate(messages):
        match message:
            case {"content": "" | []} if message.get("role") != "assistant" or number < len(messages) - 1:
                found.append(Finding(f"messages[{number}].content is empty", certain=True))
            case {"content": [*blocks]}:
                found += [
                    Finding(f"messages[{number}].content[{at}].text is empty", certain=True)
                    for at, block in enumerate(blocks)
                    if _is_object(block) and block.get("type") == "text" and block.get("text") == ""
                ]
            case _:
                pass
        match message:
            case {"role": "system"}:
                why = f"messages[{number}].role is `system`: many models refuse that; all take the parameter `system`"
                found.append(Finding(why, certain=False, refused=False))
            case _:
                pass
    return found


def _is_list(value: object) -> typing.TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_object(value: object) -> typing.TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _null(path: str) -> Finding:
    return Finding(f"{path} is null; leave it out", certain=False, refused=False)


def _weight(found: list[Finding]) -> tuple[int, int]:
    return sum(each.certain for each in found), len(found)


def _look(node: Node, value: object, path: str, known_long: bool, sdk: str) -> list[Finding]:
    """What is wrong with a value at a place."""
    match node:
        case Anything():
            return []
        case Items(of) if _is_list(value):
            return [
                each
                for number, item in enumerate(value)
                for each in _look(of, item, f"{path}[{number}]", known_long, sdk)
            ]
        case Entries(of) if _is_object(value):
            items = value.items()
            return [each for name, item in items for each in _look(of, item, f"{path}.{name}", known_long, sdk)]
        case Fields() if _is_object(value):
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
            if _look(of, None, "", known_long, sdk):
                found.append(_null(f"{path}.{name}"))
        else:
            found += _look(of, value[name], f"{path}.{name}", known_long, sdk)
    if not node.open:
        found += [_unknown(name, node.of, path, sdk) for name in value if name not in node.of]
    return found


def _look_at_either(nodes: Sequence[Node], value: object, path: str, known_long: bool, sdk: str) -> list[Finding]:
    flat = [each for node in nodes for each in (node.nodes if isinstance(node, Either) else (node,))]
    fitting = [node for node in flat if _fits(node, value)]
    if not fitting:
        return [_wrong_type(flat, value, path, known_long)]
    if _is_object(value):
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
    return min((_look(node, value, path, known_long, sdk) for node in fitting), key=_weight)


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


def _unknown(name: str, known: Iterable[str], path: str, sdk: str) -> Finding:
    hint = _hint(name, frozenset(known))
    place = f"`{_cut(name)}` in {path}" if path else f"`{_cut(name)}`"
    return Finding(f"{place} is not a name that {sdk} knows{hint}", certain=False)


def _other_value(value: object, known: Iterable[object], path: str, sdk: str) -> Finding:
    hint = _hint(str(value), frozenset(each for each in known if isinstance(each, str)))
    return Finding(f"{path} `{_cut(str(value))}` is not one that {sdk} knows{hint}", certain=False)


@lru_cache(maxsize=1000)
def _hint(name: str, known: frozenset[str]) -> str:
    """The nearest known name, as a question; looked for once, though every row may have it."""
    near = difflib.get_close_matches(name[:SHOWN], sorted(known), 1, NEAR)
    return f"; did you mean `{near[0]}`?" if near else ""


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


class Check:
    """Checks the params of one input; `doubts` gathers what does not stop it.

    Args:
        strict: whether what the API may be new enough to take is a problem, too.
        betas: whether every request is sent with an `anthropic-beta` header.

    """

    def __init__(self, *, strict: bool = False, betas: bool = False) -> None:
        self._strict = strict
        self._betas = betas
        self.doubts = Problems()
        self._told = 0

    def begin(self, place: Callable[[int], tuple[str | None, int]] | None = None) -> None:
        """Begin to read the input, perhaps once more; `place` as `Problems` takes it."""
        self.doubts = Problems(place)

    def fresh_doubts(self) -> list[Alike]:
        """The kinds of doubts that this did not return before."""
        fresh = self.doubts.alike()[self._told :]
        self._told += len(fresh)
        return fresh

    def lines(self, text: bytes) -> Sequence[Any] | None:  # Any: the structs are made at run time
        """Read lines whose params are beyond doubt; None if some have to be looked at one by one.

        Raises:
            msgspec.DecodeError, UnicodeDecodeError, RecursionError: likewise.

        """
        known = table()
        lines = known.read_lines(text)
        if any(line.params.stream for line in lines) or not known.models.issuperset(
            {line.params.model for line in lines}
        ):
            return None
        return lines

    def row(self, row: Row, number: int) -> list[BadRequest]:
        """The problems of the params of one row, which is sound otherwise; doubts are noted."""
        known = table()
        try:
            doubt = known.doubt_of(typing.cast("Any", known.read(row.params)).model)
            found = [] if doubt is None else [doubt]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = known.look(read_json(row.params), betas=self._betas or bool(row.betas))
        if not found:
            return []
        custom_id = str(json.loads(row.custom_id))
        told = [(BadRequest(number, custom_id, each.why), each.certain or self._strict) for each in found]
        self.doubts.add(problem for problem, stops in told if not stops)
        return [problem for problem, stops in told if stops]


def check_of(wanted: Params, *, betas: bool) -> Check | None:
    """The check that a setting asks for; None if params are sent as they are."""
    return None if wanted == "unchecked" else Check(strict=wanted == "strict", betas=betas)


def read_json(params: bytes) -> dict[str, Any]:
    """Params as Python has them, also with numbers that the quick decoder does not take."""
    try:
        return _decode(params)
    except (msgspec.DecodeError, ValueError):
        return typing.cast("dict[str, Any]", json.loads(params, parse_int=float))


_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


@lru_cache(maxsize=1)
def table() -> Table:
    """The table of the installed SDK. The first call imports the SDK, which takes a second: not in an event loop."""
    import anthropic  # noqa: PLC0415 - `import abatch` does not load the SDK
    from anthropic.types.beta.message_create_params import MessageCreateParamsNonStreaming as WithBetas  # noqa: PLC0415
    from anthropic.types.message_create_params import MessageCreateParamsNonStreaming as Usual  # noqa: PLC0415
    from anthropic.types.model_param import ModelParam  # noqa: PLC0415

    models = [name for each in get_args(ModelParam) for name in get_args(each)]
    return Table(anthropic.__version__, Usual, WithBetas, models)
