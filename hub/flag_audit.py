"""What code has to do with flags, and what is wrong with it: read from Python source, never run.

Owns the rules of `fieldfare flags audit`. Pure: sources and definitions come in, findings go out.

A flag is named in exactly one place:

* an experiment, whose `metadata.strategy` names a class (`module:Class` or `Class`), as the key of
  one entry of a dict called `EXPERIMENTS`, whose value is that class; nothing else names the class.
  Deleting the class and the entry then deletes the experiment;
* any other, as the first argument of one call that reads flags, as text or as a constant that is
  text.

Tests may name what they like.
"""

import ast
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from sync.flags import FLAG_KEY_PATTERN, BadFlag, parse_flag

REGISTRY: Final = "EXPERIMENTS"

READS: Final = frozenset(
    {
        f"get_{kind}_{what}{suffix}"
        for kind in ("boolean", "string", "integer", "float", "object")
        for what in ("value", "details")
        for suffix in ("", "_async")
    }
    | {"is_on"}
)
"""Calls that read a flag: OpenFeature's, and the agent's own."""

OWN: Final = "agent."
"""How the agent's own flags begin; they need no definition."""


class Place(NamedTuple):
    """A line of source."""

    path: str
    line: int

    def __str__(self) -> str:
        """Return it as editors know it."""
        return f"{self.path}:{self.line}"


class Finding(NamedTuple):
    """Something that is wrong."""

    flag: str
    """Empty if no flag can be named."""
    place: Place | None
    words: str

    def __str__(self) -> str:
        """Return it as one line."""
        where = f"{self.place}: " if self.place else ""
        return f"{where}{self.flag + ': ' if self.flag else ''}{self.words}"


@dataclass(slots=True)
class Code:
    """What was found in source."""

    reads: list[tuple[str, Place]] = field(default_factory=list)
    """Flags that are read by name."""
    entries: list[tuple[str, str, Place]] = field(default_factory=list)
    """(flag, class) in registries."""
    unnamed: list[Place] = field(default_factory=list)
    """Reads whose flag cannot be told, in modules without a registry."""
    texts: list[tuple[str, Place]] = field(default_factory=list)
    """Every text that could be a flag's name, except where it is read or registered."""
    classes: list[tuple[str, Place]] = field(default_factory=list)
    uses: list[tuple[str, Place]] = field(default_factory=list)
    """Names that are used, except in registries, imports, and classes of that name."""
    faults: list[Finding] = field(default_factory=list)

    def places(self, flag: str) -> list[Place]:
        """Return where a flag is read or registered."""
        found = [place for key, place in self.reads if key == flag]
        return found + [place for key, _, place in self.entries if key == flag]


def is_test(path: str) -> bool:
    """Tell whether a file is a test, or helps tests."""
    parts = PurePosixPath(path).parts
    return "tests" in parts[:-1] or parts[-1].startswith("test_") or parts[-1] == "conftest.py"


def scan(sources: Mapping[str, str]) -> Code:
    """Return what sources, by path, have to do with flags; tests among them are passed over."""
    code = Code()
    for path, text in sorted(sources.items()):
        if is_test(path):
            continue
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            code.faults.append(Finding("", Place(path, line), f"is no Python: {error}"))
            continue
        _Module(path, tree, code).look()
    return code


class _Module:
    """One module on its way into `Code`."""

    def __init__(self, path: str, tree: ast.Module, code: Code) -> None:
        self.path = path
        self.tree = tree
        self.code = code
        self.constants = dict(_constants(tree))
        self.seen: set[int] = set()
        """Nodes that stand where a flag is read or registered."""

    def look(self) -> None:
        registries = [each for each in self.tree.body if _registry(each) is not None]
        for each in registries:
            self._entries(_registry(each))
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and node.args and _called(node) in READS:
                self._read(node, is_registered=bool(registries))
        self._names(self.tree, within=())

    def _entries(self, registry: ast.Dict | None) -> None:
        for key, value in zip(*(registry.keys, registry.values), strict=True) if registry else ():
            flag = self._text(key)
            name = _last_name(value)
            if flag is None or name is None:
                place = Place(self.path, value.lineno)
                words = f"an entry of {REGISTRY} is a flag's name and a class"
                self.code.faults.append(Finding("", place, words))
                continue
            self.code.entries.append((flag, name, Place(self.path, value.lineno)))
            self.seen |= {id(each) for each in ast.walk(value)}

    def _read(self, call: ast.Call, *, is_registered: bool) -> None:
        flag = self._text(call.args[0])
        place = Place(self.path, call.lineno)
        if flag is not None:
            self.code.reads.append((flag, place))
        elif not is_registered:
            self.code.unnamed.append(place)

    def _text(self, node: ast.expr | None) -> str | None:
        """Return the text that an expression stands for; its node, or the constant's, is seen."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            self.seen.add(id(node))
            return node.value
        if isinstance(node, ast.Name) and node.id in self.constants:
            constant = self.constants[node.id]
            self.seen.add(id(constant))
            return str(constant.value)
        return None

    def _names(self, node: ast.AST, within: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            if id(child) in self.seen or _is_for_readers(child):
                continue
            place = Place(self.path, getattr(child, "lineno", 1))
            inner = within
            match child:
                case ast.ClassDef(name=name):
                    self.code.classes.append((name, place))
                    inner = (*within, name)
                case ast.Name(id=name) | ast.Attribute(attr=name) if name not in within:
                    self.code.uses.append((name, place))
                case ast.Constant(value=str(text)) if FLAG_KEY_PATTERN.match(text):
                    self.code.texts.append((text, place))
            self._names(child, inner)


def _constants(tree: ast.Module) -> Iterator[tuple[str, ast.Constant]]:
    for each in tree.body:
        match each:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str()) as constant)
                | ast.AnnAssign(
                    target=ast.Name(id=name), value=ast.Constant(value=str()) as constant
                )
            ):
                yield name, constant


def _registry(statement: ast.stmt) -> ast.Dict | None:
    match statement:
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict() as found)
            | ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict() as found)
        ):
            return found if name == REGISTRY else None
    return None


def _called(call: ast.Call) -> str | None:
    return _last_name(call.func)


def _last_name(node: ast.expr) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return None


def _is_for_readers(child: ast.AST) -> bool:
    """Tell whether a text stands alone, as a docstring does."""
    return isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)


# Judging.


def findings(code: Code, definitions: Mapping[str, str], today: date) -> list[Finding]:
    """Return all that is wrong, in order.

    Args:
        code: What was found in source.
        definitions: The ledger: each flag's definition, as flagd's JSON.
        today: A flag whose `expires` is before it is over.
    """
    found = list(code.faults)
    found += [
        Finding("", place, "reads a flag whose name cannot be told") for place in code.unnamed
    ]
    named = {key for key, _ in code.reads} | {key for key, _, _ in code.entries}
    for flag in sorted(named - definitions.keys()):
        if flag.startswith(OWN):
            found += _places(code, flag)
        else:
            place = code.places(flag)[0]
            found.append(Finding(flag, place, "is read, and not defined in the ledger"))
    for flag, text in sorted(definitions.items()):
        found += _definition(flag, text, today)
        found += _places(code, flag)
        found += _strategy(code, flag, text)
    return found


def _definition(flag: str, text: str, today: date) -> Iterator[Finding]:
    try:
        definition = parse_flag(text)
    except BadFlag as error:
        yield Finding(flag, None, str(error))
        return
    if definition.expires < today:
        yield Finding(flag, None, f"expired on {definition.expires}: remove it, or decide anew")
    guard = definition.metadata.get("guard")
    if not isinstance(guard, str) or not guard.strip():
        yield Finding(flag, None, "has no metadata.guard: name the measure that shows harm")


def _places(code: Code, flag: str) -> Iterator[Finding]:
    places = code.places(flag)
    if not places and not flag.startswith(OWN):
        yield Finding(flag, None, "is defined in the ledger, and read nowhere: remove it")
    for each in places[1:]:
        yield Finding(flag, each, f"is read in a second place; the first is {places[0]}")
    for key, place in code.texts:
        if key == flag:
            yield Finding(flag, place, "is named here as well, and would stay behind")


def _strategy(code: Code, flag: str, text: str) -> Iterator[Finding]:
    try:
        named = parse_flag(text).metadata.get("strategy")
    except BadFlag:
        return  # said by `_definition`
    entries = [(name, place) for key, name, place in code.entries if key == flag]
    if named is None:
        for name, place in entries:
            yield Finding(flag, place, f"is registered with {name}: metadata.strategy must name it")
        return
    wanted = str(named).rpartition(":")[2].rpartition(".")[2]
    if not entries:
        yield Finding(flag, None, f"has no entry in a dict {REGISTRY} for its strategy {wanted}")
    for name, place in entries:
        if name != wanted:
            yield Finding(flag, place, f"is registered with {name}, and its strategy is {wanted}")
    classes = [place for name, place in code.classes if name == wanted]
    if len(classes) != 1:
        where = ", ".join(map(str, classes)) or "none"
        yield Finding(flag, None, f"needs exactly one class {wanted}; there is {where}")
    for name, place in code.uses:
        if name == wanted:
            yield Finding(flag, place, f"{wanted} is used here as well, and would stay behind")


def flag_file(text: str) -> dict[str, str]:
    """Return the definitions in a file of flagd, `{"flags": {...}}`.

    Raises:
        BadFlag: It is none.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadFlag(f"is no JSON: {str(error)[:120]}") from None
    flags = raw.get("flags") if isinstance(raw, dict) else None
    if not isinstance(flags, dict):
        raise BadFlag('is no file of flags: {"flags": {"pump-fast": {...}}}')
    return {key: json.dumps(value, ensure_ascii=False) for key, value in flags.items()}


def sentence(found: Iterable[Finding], flags_count: int) -> str:
    """Return one sentence for the end."""
    count = len(list(found))
    flags = f"{flags_count} flag" if flags_count == 1 else f"{flags_count} flags"
    return f"{flags}, nothing wrong" if not count else f"{flags}, {count} findings"
