"""Mutants of a module, made by mutmut, and the list of those that no test can kill."""

import difflib
from pathlib import Path
from typing import NamedTuple

import libcst
from libcst import matchers
from mutmut.mutation.file_mutation import create_mutations

EQUIVALENT = Path(__file__).with_name("equivalent.txt")


class Change(NamedTuple):
    """A node of a module's tree, and what takes its place."""

    module: str
    tree: libcst.Module
    node: libcst.CSTNode
    replacement: libcst.CSTNode


class Mutant(NamedTuple):
    """A module's source with one change; the change is spelled as in `equivalent.txt`."""

    module: str
    line: int
    change: str
    code: str


def find_changes(module: str) -> list[Change]:
    """Returns every change that mutmut makes, except to texts for people or type checkers."""
    tree, mutations, _, _ = create_mutations(module, Path(module).read_text())
    literals = matchers.findall(tree, matchers.Subscript(value=matchers.Name("Literal")))
    texts = {text for each in literals for text in matchers.findall(each, matchers.SimpleString())}
    texts |= {t for t in matchers.findall(tree, matchers.SimpleString()) if " " in t.value}
    return [
        Change(module, tree, each.original_node, each.mutated_node)
        for each in mutations
        if each.original_node not in texts
    ]


def apply(change: Change) -> Mutant:
    """Returns the mutant of a change."""
    code = change.tree.deep_replace(change.node, change.replacement).code
    before, after = change.tree.code.splitlines(), code.splitlines()
    parts = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    _, first, end, start, stop = next(part for part in parts if part[0] != "equal")
    removed = [f"- {line.strip()}" for line in before[first:end]]
    added = [f"+ {line.strip()}" for line in after[start:stop]]
    return Mutant(change.module, first + 1, "\n".join([change.module, *removed, *added]), code)


def read_equivalent() -> dict[str, str]:
    """Returns the reasons of `equivalent.txt` by change; prints which lines are no longer there."""
    reasons = {}
    for entry in filter(None, EQUIVALENT.read_text().strip().split("\n\n")):
        change, _, reasons[change] = entry.partition("\nbecause ")
        module, *lines = change.splitlines()
        source = {line.strip() for line in Path(module).read_text().splitlines()}
        for line in lines:
            if line.startswith("- ") and line[2:] not in source:
                print(f"{EQUIVALENT.name}: {module} no longer has the line: {line[2:]}")
    return reasons
