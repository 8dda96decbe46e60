"""Make a valid instance of a JSON schema, as a model with structured outputs would answer.

The supported keywords are those that the Messages API takes in `output_config`, and the usual limits of numbers,
strings and arrays. The same schema and mark give the same instance. Optional properties are filled in, too, except
where a schema refers to itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

__all__ = ["NoInstance", "instance"]

Schema = Mapping[str, Any]  # Any: JSON

FORMATS: Final[Mapping[str, str]] = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "sandbox@example.com",
    "hostname": "example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
}
UNKNOWN: Final = ("pattern", "not", "if", "oneOf", "contains", "patternProperties", "minProperties", "uniqueItems")
"""Keywords that restrict the valid instances, and that this module does not support."""
DEEPEST: Final = 64


class NoInstance(ValueError):
    """No valid instance can be made; the text gives the reason."""


def instance(schema: object, mark: str) -> object:
    """Return an instance of the schema; its strings are `mark`, unless the schema restricts them.

    Raises:
        NoInstance: this module cannot make an instance of the schema.

    """
    if schema is True:
        return {}
    if not isinstance(schema, Mapping):
        raise NoInstance("the schema is not an object")
    return _Maker(cast("Schema", schema), mark).make(cast("Schema", schema), ())


class _Maker:
    def __init__(self, root: Schema, mark: str) -> None:
        self._root = root
        self._mark = mark

    def make(self, schema: object, refs: tuple[str, ...]) -> object:
        """Return an instance; `refs` are the references that led to this schema."""
        if schema is True:
            return self._mark
        if not isinstance(schema, Mapping):
            raise NoInstance(f"no instance of the schema {schema!r} exists")
        known = cast("Schema", schema)
        if len(refs) > DEEPEST:
            raise NoInstance("a required property refers to its own schema")
        if "oneOf" in known and "discriminator" in known:  # an instance of one choice fits no other choice
            return self._any(known["oneOf"], refs)
        for keyword in UNKNOWN:
            if known.get(keyword):
                raise NoInstance(f"the keyword {keyword!r} is not known to the sandbox")
        if "$ref" in known:
            rest = {name: value for name, value in known.items() if name != "$ref"}
            return self.make({**self._find(known["$ref"]), **rest}, (*refs, known["$ref"]))
        if "allOf" in known:
            return self.make(self._merged(known), refs)
        if "const" in known:
            return known["const"]
        if "enum" in known:
            return self._first(known["enum"], "enum")
        if "anyOf" in known:
            return self._any(known["anyOf"], refs)
        return self._of_type(known, refs)

    def _of_type(self, schema: Schema, refs: tuple[str, ...]) -> object:
        kinds = schema.get("type", "object" if "properties" in schema else "string")
        match kinds if isinstance(kinds, str) else self._first(kinds, "type"):
            case "object":
                return self._object(schema, refs)
            case "array":
                return self._array(schema, refs)
            case "string":
                return self._string(schema)
            case "integer" | "number" as kind:
                return self._number(schema, whole=kind == "integer")
            case "boolean":
                return True
            case "null":
                return None
            case kind:
                raise NoInstance(f"the type {kind!r} is not known")

    def _any(self, choices: object, refs: tuple[str, ...]) -> object:
        """Return an instance of the first choice that has one."""
        why = NoInstance("anyOf has no schema that can be made")
        for choice in cast("list[object]", choices if isinstance(choices, list) else []):
            if self._is_one_of(choice, refs):
                continue  # only another choice ends the recursion of a schema that refers to itself
            try:
                return self.make(choice, refs)
            except NoInstance as reason:
                why = reason
        raise why

    def _is_one_of(self, schema: object, refs: tuple[str, ...]) -> bool:
        return isinstance(schema, Mapping) and cast("Schema", schema).get("$ref") in refs

    def _object(self, schema: Schema, refs: tuple[str, ...]) -> dict[str, object]:
        required = set(schema.get("required", ()))
        made: dict[str, object] = {}
        for name, each in schema.get("properties", {}).items():
            if name in required or not self._goes_back(each, refs):
                made[name] = self.make(each, refs)
        for name in sorted(required - made.keys()):
            made[name] = self.make(schema.get("additionalProperties", True), refs)
        return made

    def _array(self, schema: Schema, refs: tuple[str, ...]) -> list[object]:
        first = [self.make(each, refs) for each in schema.get("prefixItems", ())]
        items = schema.get("items", True)
        least = schema.get("minItems", 0)
        wanted = max(least, len(first), 0 if items is False or self._goes_back(items, refs) else 1)
        wanted = max(least, min(wanted, schema.get("maxItems", wanted)))
        return (first + [self.make(items, refs) for _ in range(wanted - len(first))])[:wanted]

    def _goes_back(self, schema: object, refs: tuple[str, ...]) -> bool:
        """Return whether a schema refers anywhere inside to a schema that is being made."""
        match schema:
            case Mapping():
                known = cast("Schema", schema)
                return known.get("$ref") in refs or any(self._goes_back(each, refs) for each in known.values())
            case list():
                return any(self._goes_back(each, refs) for each in cast("list[object]", schema))
            case _:
                return False

    def _string(self, schema: Schema) -> str:
        if (wanted := FORMATS.get(str(schema.get("format")))) is not None:
            return wanted
        text = self._mark.ljust(schema.get("minLength", 0), ".")
        return text[: schema.get("maxLength", len(text))]

    def _number(self, schema: Schema, *, whole: bool) -> int | float:
        least, most = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
        step = schema.get("multipleOf", 1 if whole else None)
        bounds = [bound for bound in (max(least, above), min(most, below)) if math.isfinite(bound)]
        tried: list[float] = [0, *bounds, *([sum(bounds) / 2] if len(bounds) == 2 else [])]
        for number in list(tried):
            tried += [number - 1, number + 1]
            if step:
                tried += [math.floor(number / step) * step, math.ceil(number / step) * step]
                tried += [(math.floor(number / step) - 1) * step, (math.ceil(number / step) + 1) * step]
        for number in tried:
            fits = not step or math.isclose(round(number / step) * step, number, abs_tol=1e-12)
            if least <= number <= most and above < number < below and fits and (not whole or number == int(number)):
                return int(number) if number == int(number) else number
        raise NoInstance("no number was found within its limits")

    def _merged(self, schema: Schema, inside: tuple[str, ...] = ()) -> dict[str, Any]:
        """Merge the parts of `allOf` into one schema: properties are united, for other keywords the last part wins."""
        merged: dict[str, Any] = {name: value for name, value in schema.items() if name != "allOf"}
        for part in schema["allOf"]:
            ref: str = part.get("$ref", "")
            if ref in inside:
                raise NoInstance("allOf refers to its own schema")
            known = self._find(ref) if ref else part
            if "allOf" in known:
                known = self._merged(known, (*inside, ref))
            for name, value in known.items():
                if name == "properties":
                    merged[name] = {**merged.get(name, {}), **value}
                elif name == "required":
                    merged[name] = [*merged.get(name, []), *value]
                else:
                    merged[name] = value
        return merged

    def _find(self, ref: object) -> Schema:
        """Return the schema that a reference within this schema names."""
        found: object = self._root
        parts = str(ref).split("/")
        if parts[0] != "#":
            raise NoInstance(f"the reference {ref!r} leads out of the schema")
        for part in parts[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            found = cast("Mapping[str, object]", found).get(name) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            raise NoInstance(f"the reference {ref!r} leads nowhere")
        return cast("Schema", found)

    def _first(self, values: object, keyword: str) -> object:
        if not isinstance(values, Sequence) or not values:
            raise NoInstance(f"{keyword} has no value")
        return cast("Sequence[object]", values)[0]
