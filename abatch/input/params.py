"""Check `params` against the SDK's own parameter types, before anything is sent.

The table is built once from the TypedDicts of the installed SDK (`param_types.py`), so a newer SDK adds newer
parameters. It has two forms. `Table.read_lines` is a msgspec decoder for whole lines, which accepts only params that
are valid beyond doubt, so most rows need no further check. A row that it refuses is examined separately
(`Table.look`). Each finding is marked as certain if the API is certain to refuse the request, and as not certain if
the API may merely be newer than this SDK.

These findings are certain: a missing or empty value, a value of the wrong JSON type in a parameter that the API has had
for years, and an argument of the SDK that is not part of a request's body. An unknown name, `type` or value is not
certain.
"""

from __future__ import annotations

import json
import typing
from functools import lru_cache
from typing import Annotated, Any, Final, get_args

import msgspec

from abatch.errors import BadRequest
from abatch.input.findings import (
    Finding,
    hint_of,
    is_list,
    is_object,
    look_at,
    null,
    shortened,
    unknown,
    weight,
)
from abatch.input.param_decoder import NoQuickForm, QuickTypes, not_empty
from abatch.input.param_types import Anything, Builder, Node
from abatch.input.problems import Problems

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

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
"""Parameters whose JSON types will not change, so the API is certain to refuse a wrong one."""
OLDER: Final[Mapping[str, object]] = {"temperature": float, "top_k": int, "top_p": float}
"""Parameters that the API accepts for older models, although the SDK's types no longer list them."""
NEED_A_BETA: Final = frozenset({"output_format"})
"""Parameters that the API accepts with a beta, although the SDK's types of a create do not list them."""
NOT_IN_A_BATCH: Final = ("speed", "fallbacks")
HEADERS_OF_A_BATCH: Final = "headers belong to a whole batch"
SDK_ARGUMENTS: Final = {
    "betas": "it is a header: put `betas` on the line's top level, beside params, or use --beta (betas= of submit)",
    "extra_headers": f"{HEADERS_OF_A_BATCH}: for anthropic-beta put `betas` on the line's top level, beside params, or "
    "use --beta (betas= of submit); for a workspace use --workspace-id (workspace_id=); no other header can be sent",
    "extra_query": "a request in a batch has no query; remove it",
    "extra_body": "put its fields into params themselves",
    "timeout": "a request in a batch has no time limit of its own; remove it",
    "workspace_id": f"{HEADERS_OF_A_BATCH}: use --workspace-id (workspace_id= of submit)",
}
"""Arguments of `messages.create` that are not sent in the body, each with the option to use in its place."""


class Table:
    """The parameters of a request, as the installed SDK knows them."""

    def __init__(self, sdk: str, usual: type, with_betas: type, models: Iterable[str]) -> None:
        self.sdk = f"anthropic {sdk}"
        self.models = frozenset(models)
        builder = Builder()
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
        """Reads whole lines; raises unless their params, apart from the model's name, are valid beyond doubt."""
        self.read = msgspec.json.Decoder(self._quick).decode
        """Reads params; raises unless they, apart from the model's name, are valid beyond doubt."""

    def _line(self) -> Any:  # noqa: ANN401 - a type that is made at run time
        quick = QuickTypes()
        fields: list[Any] = []
        for name, (node, _) in self._usual.items():
            if name in NOT_IN_A_BATCH or name in ("model", "max_tokens", "messages"):
                continue
            try:
                fields.append((name, quick.type(node), None))
            except NoQuickForm:
                continue
        messages = not_empty(quick.type(self._usual["messages"][0]))
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
        """Return the finding about a model's name that the SDK does not know; None if it knows the name."""
        if model in self.models:
            return None
        hint = hint_of(model.lower().rpartition("/")[2], self.models)
        return Finding(
            f"model `{shortened(model)}` is not one that {self.sdk} knows{hint}", certain=False, refused=False
        )

    def look(self, params: Mapping[str, Any], *, betas: bool) -> list[Finding]:
        """Return everything that is wrong, or may be wrong, with these params.

        Args:
            params: the params as read from JSON.
            betas: whether the request is sent with an `anthropic-beta` header.

        """
        found = [
            Finding(f"{name} is missing", certain=True) for name in ("model", "messages") if params.get(name) is None
        ]
        for name, value in params.items():
            found += self._parameter(name, value, betas=betas)
        return found

    def _parameter(self, name: str, value: object, *, betas: bool) -> list[Finding]:
        if name in ("max_tokens", "stream"):  # These are checked where the line is read.
            return []
        if name in SDK_ARGUMENTS:
            return [Finding(f"`{name}` is no parameter of a request in a batch; {SDK_ARGUMENTS[name]}", certain=True)]
        if name in NOT_IN_A_BATCH:
            return (
                [] if value is None else [Finding(f"`{name}` is not possible in a batch; leave it out", certain=True)]
            )
        usual, with_betas = self._usual.get(name), self._with_betas.get(name)
        if usual is None and with_betas is None:
            return [unknown(name, self._known, "", self.sdk)]
        if value is None and name in ("model", "messages"):  # The caller reports these as missing.
            return []
        found = self._least(name, value, usual, with_betas)
        if value is None and found:
            found = [null(name)]
        if usual is None and not betas:
            where = "in `betas` on the line's top level, beside params, or with --beta (betas= of submit)"
            why = f"`{name}` needs a beta: name it {where}"
            found = [Finding(why, certain=False, refused=False), *found]
        match name, value:
            case "model", str() if (doubt := self.doubt_of(value)) is not None:
                return [*found, doubt]
            case "messages", _ if is_list(value):
                return [*found, *_about_messages(value)]
            case _:
                return found

    def _least(self, name: str, value: object, *known: tuple[Node, bool] | None) -> list[Finding]:
        """Check a value against the usual types and the types with betas; return the less severe findings."""
        least: list[Finding] | None = None
        for node, _ in filter(None, known):
            found = look_at(node, value, name, name in LONG_KNOWN, self.sdk)
            if not found:
                return found
            least = found if least is None else min(least, found, key=weight)
        return least or []


def _about_messages(messages: list[Any]) -> list[Finding]:
    """Check the rules that the types do not express: what must not be empty, and where a system prompt belongs."""
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
                    if is_object(block) and block.get("type") == "text" and block.get("text") == ""
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


class Check:
    """Checks the params of one input; `doubts` collects the findings that do not stop it.

    Args:
        strict: whether a finding is a problem even if a newer API may accept the params.
        betas: whether every request is sent with an `anthropic-beta` header.

    """

    def __init__(self, *, strict: bool = False, betas: bool = False) -> None:
        self._strict = strict
        self._betas = betas
        self.doubts = Problems()
        self._told = 0

    def begin(self, place: Callable[[int], tuple[str | None, int]] | None = None) -> None:
        """Start a read of the input, perhaps another one; `place` is that of `Problems`."""
        self.doubts = Problems(place)

    def fresh_doubts(self) -> list[Alike]:
        """Return the kinds of doubts that earlier calls did not return."""
        fresh = self.doubts.alike()[self._told :]
        self._told += len(fresh)
        return fresh

    def lines(self, text: bytes) -> Sequence[Any] | None:  # Any: the structs are made at run time
        """Read lines whose params are valid beyond doubt; return None if the lines have to be examined one by one.

        Raises:
            msgspec.DecodeError, UnicodeDecodeError, RecursionError: the lines have to be examined one by one, too.

        """
        known = table()
        lines = known.read_lines(text)
        if any(line.params.stream for line in lines) or not known.models.issuperset(
            {line.params.model for line in lines}
        ):
            return None
        return lines

    def row(self, row: Row, number: int) -> list[BadRequest]:
        """Return the problems of the params of one row that is otherwise valid; add its doubts to `doubts`."""
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
    """Return the check for a setting; None if params are sent unchecked."""
    return None if wanted == "unchecked" else Check(strict=wanted == "strict", betas=betas)


def read_json(params: bytes) -> dict[str, Any]:
    """Decode params to Python values, including numbers that the quick decoder refuses."""
    try:
        return _decode(params)
    except (msgspec.DecodeError, ValueError):
        return typing.cast("dict[str, Any]", json.loads(params, parse_int=float))


_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


@lru_cache(maxsize=1)
def table() -> Table:
    """Return the table of the installed SDK. The first call imports the SDK for a second: call it in a thread."""
    import anthropic  # noqa: PLC0415 - `import abatch` does not load the SDK
    from anthropic.types.beta.message_create_params import MessageCreateParamsNonStreaming as WithBetas  # noqa: PLC0415
    from anthropic.types.message_create_params import MessageCreateParamsNonStreaming as Usual  # noqa: PLC0415
    from anthropic.types.model_param import ModelParam  # noqa: PLC0415

    models = [name for each in get_args(ModelParam) for name in get_args(each)]
    return Table(anthropic.__version__, Usual, WithBetas, models)
