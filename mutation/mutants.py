"""Every small change that mutmut's operators make to a file of latentflow, one at a time.

Mutmut's own runner keeps all mutants of a function in one file and chooses among them while the program runs. Compiled graphs,
autograd functions and docstring examples do not take that well, so only its operators are used here, on whole files.

`latentflow.testing` is not among the files: tests/test_testing_planted*.py have a wrong arithmetic for each of its assertions.

Left out, because what they change is text for people, for a type checker, or is done before any test:

* docstrings, f-strings, string literals with a space in them, and what a raised `TypeError` or `ValueError` says;
  whether it is raised is not left out;
* the names and hints that checks put into their messages (`CHECKS`);
* annotations, decorators, imports, `__all__`, names of types, and calls of `len` and `isinstance`, as in mutmut.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

CHECKS = ("require_finite", "require_floating", "positive_integer", "one_of", "sequences", "_latents", "latents")
TEXT = (cst.SimpleString, cst.ConcatenatedString, cst.FormattedString)
UNTOUCHED = (cst.Annotation, cst.Decorator, cst.FormattedString, cst.Import, cst.ImportFrom)


@dataclass(frozen=True)
class Mutant:
    """One change."""

    key: str  # says which change it is; not where in the file, so that it lasts while other lines change
    file: str  # relative to the root
    lines: range  # of the statement; of a function where the statement runs as the function is made
    line: int
    source: str  # of that line
    operator: str  # of mutmut
    before: str
    after: str
    module: cst.Module
    change: tuple[cst.CSTNode, cst.CSTNode]

    def code(self) -> str:
        """The whole file, changed."""
        return self.module.deep_replace(*self.change).code  # takes long, so only made of those that are tried


def mutants(root: Path, file: Path) -> Iterator[Mutant]:
    """All mutants of a file, in its order."""
    text = file.read_text()
    wrapper, source = MetadataWrapper(cst.parse_module(text)), text.splitlines()
    visitor = _Visitor()
    wrapper.visit(visitor)
    name, seen = file.relative_to(root).as_posix(), Counter[tuple[str, ...]]()
    for scope, statement, lines, line, operator, node, replacement in visitor.found:
        before, after = (wrapper.module.code_for_node(x).strip() for x in (node, replacement))
        what = name, scope, _text(wrapper.module, statement), before, after
        seen[what] += 1
        key = hashlib.sha256(repr((what, seen[what])).encode()).hexdigest()[:10]
        told = line, source[line - 1].strip(), operator, before, after
        yield Mutant(key, name, lines, *told, wrapper.module, (node, replacement))


def _text(module: cst.Module, node: cst.CSTNode) -> str:
    """The statement without what is nested in it."""
    code = module.code_for_node(node).strip()
    return code.splitlines()[0] if isinstance(node, cst.BaseCompoundStatement) else code


class _Visitor(cst.CSTVisitor):
    """Collects (function, statement, its lines, line, operator, node, replacement)."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, cst.CSTNode, range, int, str, cst.CSTNode, cst.CSTNode]] = []
        self._scopes: list[str] = []
        self._statements: list[tuple[cst.CSTNode, range]] = []
        self._messages: set[cst.CSTNode] = set()

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, UNTOUCHED) or node in self._messages or _only_speaks(node) or _is_of_types(node):
            return False
        if _is_check(node):
            self._messages.update(arg.value for arg in node.args if isinstance(arg.value, TEXT))
        if isinstance(node, cst.BaseCompoundStatement | cst.SimpleStatementLine):
            self._statements.append((node, self._lines(node)))
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._scopes.append(node.name.value)
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                for replacement in operator(node):
                    if not _changes_only_text(node, replacement):
                        line = self.get_metadata(PositionProvider, node).start.line
                        where = ".".join(self._scopes), *self._statements[-1], line
                        self.found.append((*where, operator.__name__, node, replacement))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if self._statements and self._statements[-1][0] is original_node:
            self._statements.pop()
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self._scopes.pop()

    def _lines(self, node: cst.CSTNode) -> range:
        where = self.get_metadata(PositionProvider, node)
        last = where.end.line
        if isinstance(node, cst.BaseCompoundStatement) and not isinstance(node, cst.FunctionDef | cst.ClassDef):
            last = max(where.start.line, self.get_metadata(PositionProvider, node.body).start.line - 1)
        return range(where.start.line, last + 1)


def _only_speaks(node: cst.CSTNode) -> bool:
    if isinstance(node, cst.Raise) and isinstance(node.exc, cst.Call):
        return isinstance(node.exc.func, cst.Name) and node.exc.func.value in ("TypeError", "ValueError")
    if isinstance(node, cst.SimpleString):
        return " " in node.value or "\n" in node.value
    if isinstance(node, cst.Expr):
        return isinstance(node.value, TEXT)
    return isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value in ("len", "isinstance")


def _is_of_types(node: cst.CSTNode) -> bool:
    """`__all__`, and names of types, as `Field`: capitalised, but no constants."""
    if not isinstance(node, cst.Assign) or not isinstance(node.targets[0].target, cst.Name):
        return False
    name = node.targets[0].target.value
    return name == "__all__" or (name[0].isupper() and not name.isupper())


def _is_check(node: cst.CSTNode) -> TypeGuard[cst.Call]:
    if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Name | cst.Attribute):
        return False
    return (node.func.value if isinstance(node.func, cst.Name) else node.func.attr.value) in CHECKS


def _changes_only_text(node: cst.CSTNode, replacement: cst.CSTNode) -> bool:
    if isinstance(node, cst.Assign):
        return isinstance(node.value, TEXT) and " " in cst.Module([]).code_for_node(node.value)
    if not _is_check(node):
        return False
    kept = {id(child) for child in replacement.args}
    return all(isinstance(arg.value, TEXT) for arg in node.args if id(arg) not in kept)
