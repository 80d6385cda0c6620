"""Edit `params.yaml` and `data/targets.yaml`: comments stay, unknown names are refused, nothing is half-written."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, get_args

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.params import SECTIONS, ParamsError, PrepareParams, nearest, parse_section
from pipeline.records import write_text
from pipeline.wanted import read_default

OPTIONAL_GROUPS = {
    "synthesize.defectfill.detail": {"from_shrink", "coarse_px", "light"},
    "synthesize.defectfill.prune": {"after", "keep"},
    "train.tiling": {"photo_px", "overlap", "whole_share"},
}
"""Groups of parameters that may be null, and their names."""
DRAWN = "pipeline/procedural"
"""Source of layout `sample`: the code that draws it, so that DVC reruns when it changes."""
LAYOUTS: tuple[str, ...] = get_args(PrepareParams.model_fields["layout"].annotation)


def configure(
    path: Path,
    profile: str | None,
    data: str | None,
    layout: str | None,
    *,
    skip_invalid: bool,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Write a profile, a data source and single values into `path`, and say what changed.

    Args:
        path: The parameter file; profiles lie beside it in `profiles/`.
        profile: Name of a profile, applied first; None keeps the present values.
        data: Folder of raw photos, stored as given.
        layout: How that folder is read; `sample` needs no folder.
        skip_invalid: Drop invalid samples. New data without it goes back to stopping at them.
        settings: Values, as YAML, of parameters with dotted names, e.g. `prepare.k`; applied last.

    Returns:
        One line a changed value, `prepare.source: old -> new`.

    Raises:
        ParamsError: For a file that is no YAML or names a key twice, an unknown profile, parameter, layout or folder, or a value
            its section refuses; nothing is written.
    """
    yaml = _round_trip()
    document = _load(yaml, path)
    before = dict(_leaves(document))
    if profile is not None:
        _merge(document, _load(yaml, _profile_path(path.parent, profile)) or {}, f"profile {profile}: ")
    _set_source(document["prepare"], path.parent, data, layout, skip_invalid=skip_invalid)
    for name, value in settings.items():
        _merge(document, _nested(name, _parse(yaml, name, value)), "")
    after = _leaves(document)
    lines = [
        f"{key}: {before.get(key, '(not there)')} -> {value}" for key, value in after if key not in before or before[key] != value
    ]
    for name, model in SECTIONS.items():
        parse_section(model, name, _plain(document.get(name)))
    if lines:
        _write(yaml, document, path)
    return lines


def want(targets: Path, count: int) -> list[str]:
    """Write how many synthetic defects are wanted of each type that `data/targets.yaml` does not name, and say what changed.

    Raises:
        ParamsError: For a number below 0, or a file that `read_default` refuses or that names a key twice; nothing is written.
    """
    if count < 0:
        raise ParamsError(f"{targets}: default: expected a whole number of at least 0, got {count}")
    yaml = _round_trip()
    before = read_default(targets)
    document = _load(yaml, targets)
    if before == count:
        return []
    document["default"] = count
    _write(yaml, document, targets)
    return [f"targets.default: {before} -> {count}"]


def _load(yaml: YAML, path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise ParamsError(f"{path}: no valid YAML, or a key twice: {error}") from error


def _write(yaml: YAML, document: Any, path: Path) -> None:
    buffer = io.StringIO()
    yaml.dump(document, buffer)
    write_text(path, buffer.getvalue())


def _parse(yaml: YAML, name: str, text: str) -> Any:
    try:
        return yaml.load(text)
    except YAMLError as error:
        quoted = "'" + text.replace("'", "''") + "'"
        raise ParamsError(f"{name}: {text!r} is no YAML; text with special characters takes quotes: {name}={quoted}") from error


def _nested(name: str, value: Any) -> dict[str, Any]:
    """A value below a dotted name as nested dictionaries.

    >>> _nested("prepare.k", 5)
    {'prepare': {'k': 5}}
    """
    for key in reversed(name.split(".")):
        value = {key: value}
    return value


def _round_trip() -> YAML:
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    return yaml


def _plain(value: Any) -> Any:
    """The value without ruamel's own container types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and plain value of everything that is no mapping."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _plain(item)


def _profile_path(root: Path, name: str) -> Path:
    folder = root / "profiles"
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in known:
        raise ParamsError(f"no profile {name!r} in profiles/{nearest(name, known)}")
    return folder / f"{name}.yaml"


def _merge(target: Any, changes: Mapping[str, Any], where: str, above: str = "") -> None:
    """Overwrite the leaves of `target`, the group named `above`, that `changes` names; a name `target` lacks is refused."""
    for key, value in changes.items():
        if key not in target:
            raise ParamsError(f"{where}{above}{key}: unknown parameter{nearest(str(key), list(map(str, target)))}")
        name, group = f"{above}{key}", isinstance(target[key], Mapping)
        if name in OPTIONAL_GROUPS and not group:
            _check_group(value, OPTIONAL_GROUPS[name], f"{where}{name}")
        elif isinstance(value, Mapping) != group and not (name in OPTIONAL_GROUPS and value is None):
            kinds = "a group of parameters" if group else "one value"
            raise ParamsError(f"{where}{name}: expected {kinds}, got {_plain(value)!r}")
        if isinstance(value, Mapping) and group:
            _merge(target[key], value, where, f"{name}.")
        elif _plain(target[key]) != _plain(value):
            target[key] = value


def _check_group(value: Any, names: set[str], name: str) -> None:
    """Refuse what cannot take the place of a null."""
    if value is not None and not (isinstance(value, Mapping) and set(value) == names):
        example = ", ".join(f"{one}: ..." for one in sorted(names))
        raise ParamsError(f"{name}: expected null or {{{example}}}, got {_plain(value)!r}")


def _set_source(prepare: Any, root: Path, data: str | None, layout: str | None, *, skip_invalid: bool) -> None:
    """Write source, layout and skip_invalid into the section of `prepare`."""
    if layout is not None and layout not in LAYOUTS:
        raise ParamsError(f"unknown layout {layout!r}; expected one of {', '.join(LAYOUTS)}{nearest(layout, list(LAYOUTS))}")
    if data is None and layout not in (None, "sample"):
        raise ParamsError(f"layout {layout!r} needs a folder of photos: give DATA=<folder> (--data) as well")
    if data is not None and layout is None:
        photos = ", ".join(name for name in LAYOUTS if name != "sample")
        raise ParamsError(f"data {data!r} needs a layout: give LAYOUT=<name> (--layout), one of {photos}")
    if data is not None and layout == "sample":
        raise ParamsError(f"layout 'sample' draws its own data set and reads no folder; leave out {data!r}")
    if data is not None:
        folder = Path(data).expanduser()
        if not (root / folder).is_dir():
            raise ParamsError(f"data folder {data!r} does not exist or is no folder; paths are relative to the project")
        _merge(prepare, {"source": str(PurePosixPath(folder)), "layout": layout, "skip_invalid": skip_invalid}, "")
    elif layout == "sample":
        _merge(prepare, {"source": DRAWN, "layout": layout, "skip_invalid": skip_invalid}, "")
    elif skip_invalid:
        _merge(prepare, {"skip_invalid": True}, "")
