"""Table: what every table of a machine file has in common, and how tables become TOML."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise ValueError("must be a number")
    return value


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Number = Annotated[float, BeforeValidator(_not_bool), Field(strict=False)]
Numbers = Annotated[tuple[Number, ...], BeforeValidator(_as_tuple)]
Words = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class Table(BaseModel):
    """A frozen table that takes exactly its own keys and says where its numbers come from."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    source: str = Field(min_length=1, description="where the numbers come from: document, page, or 'assumed: reason'")


def keys_of(table: type[BaseModel], prefix: str = "") -> list[str]:
    """Return every dotted key that a table and the tables in it may have."""
    keys = []
    for name, field in table.model_fields.items():
        inner = [part for part in (field.annotation, *getattr(field.annotation, "__args__", ())) if _is_table(part)]
        keys += keys_of(inner[0], f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return keys


def _is_table(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def to_toml(data: dict[str, Any], name: str = "") -> str:
    """Write nested tables as TOML: a table's own values first, then the tables in it."""
    own = {key: value for key, value in data.items() if not isinstance(value, dict)}
    lines = [f"[{name}]"] if own and name else []
    lines += [f"{_key(key)} = {_value(value)}" for key, value in own.items()]
    inner = [
        to_toml(value, f"{name}.{_key(key)}" if name else _key(key))
        for key, value in data.items()
        if isinstance(value, dict) and value
    ]
    return "\n".join([*(["\n".join(lines) + "\n"] if lines else []), *inner])


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return repr(value)
