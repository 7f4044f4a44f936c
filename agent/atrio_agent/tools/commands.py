"""Shell commands as words, where they are plain enough to be judged.

`plain_commands` takes a command line apart only if nothing in it is left to the
shell: programs with literal arguments, joined by ``|`` or ``&&``. Everything
else has no parts here, and so somebody is asked. Two parsers that know nothing of
each other must agree, and a word may have only characters that mean nothing to
a shell.

Which programs may run is decided in `programs`. Nothing here runs anything.
"""

import re
import shlex
from typing import Final

import tree_sitter
import tree_sitter_bash

__all__ = ["plain_commands"]

_MAX_CHARS: Final = 4_096

_PROGRAM: Final = re.compile(r"[a-z][a-z0-9_.-]*")
_BARE: Final = re.compile(r"[A-Za-z0-9_./:@%+=,^-][A-Za-z0-9_./:@%+=,^~-]*")
"""No quote, glob, brace, expansion, escape or operator; no tilde where the shell would expand it."""

_OPTION: Final = re.compile(r"--[a-z][a-z-]*=")
_EXPANDED_TILDE: Final = re.compile(r"[:=]~")
_SINGLE_QUOTED: Final = re.compile(r"'([ !-&(-~]*)'")
_DOUBLE_QUOTED: Final = re.compile(r'"([ #%-\[\]^_a-~]*)"')
"""Printable, without what a shell looks at between double quotes: ``! " $ \\ ` ``."""

_OPERATORS: Final = frozenset({"|", "&&"})
_language: Final = tree_sitter.Language(tree_sitter_bash.language())


def plain_commands(command: str) -> tuple[tuple[str, ...], ...] | None:
    """The words of each program in a command line; None, if it is anything but plain."""
    line = command.strip(" ")
    if not line or len(line) > _MAX_CHARS or not line.isascii() or not line.isprintable():
        return None
    tree = tree_sitter.Parser(_language).parse(line.encode())
    if tree.root_node.has_error:
        return None
    try:
        commands = _program(tree.root_node, line)
        known = list(_tokens(line))
    except _NotPlain:
        return None
    flat = [word for words in commands for word in (*words, None)][:-1]
    # The second opinion sees operators as words of their own.
    agreed = [None if token in _OPERATORS else token for token in known]
    return commands if agreed == flat else None


class _NotPlain(Exception):
    """Something is left to the shell."""


def _program(root: tree_sitter.Node, line: str) -> tuple[tuple[str, ...], ...]:
    if root.type != "program" or len(root.children) != 1:
        raise _NotPlain
    (child,) = root.children
    if line[: child.start_byte] or line[child.end_byte :]:
        raise _NotPlain
    return _joined(child, line)


def _joined(node: tree_sitter.Node, line: str) -> tuple[tuple[str, ...], ...]:
    if node.type == "command":
        return (_command(node, line),)
    if node.type not in {"list", "pipeline"}:
        raise _NotPlain
    commands: list[tuple[str, ...]] = []
    operator = "&&" if node.type == "list" else "|"
    for index, child in enumerate(node.children):
        if index % 2:
            if child.type != operator or _said(child, line) != operator:
                raise _NotPlain
        else:
            commands.extend(_joined(child, line))
    if len(node.children) % 2 == 0:
        raise _NotPlain
    return tuple(commands)


def _command(node: tree_sitter.Node, line: str) -> tuple[str, ...]:
    name, *arguments = node.children
    if name.type != "command_name" or len(name.children) != 1 or name.children[0].type != "word":
        raise _NotPlain
    program = _said(name, line)
    if not _PROGRAM.fullmatch(program):
        raise _NotPlain
    words = [program]
    end = name.end_byte
    for argument in arguments:
        if line[end : argument.start_byte].strip(" ") or end == argument.start_byte:
            raise _NotPlain
        words.append(_word(argument, line))
        end = argument.end_byte
    return tuple(words)


def _word(node: tree_sitter.Node, line: str) -> str:
    said = _said(node, line)
    if node.type == "concatenation" and len(node.children) == 2:
        # --option='value', and no other word that is quoted in part
        option, value = node.children
        if not _OPTION.fullmatch(_said(option, line)) or value.type not in {"raw_string", "string"}:
            raise _NotPlain
        return _word(option, line) + _word(value, line)
    if node.type in {"word", "number"} and not node.children:
        if not _BARE.fullmatch(said) or _EXPANDED_TILDE.search(said):
            raise _NotPlain
        return said
    if node.type == "raw_string":
        match = _SINGLE_QUOTED.fullmatch(said)
    elif node.type == "string" and all(child.type in {'"', "string_content"} for child in node.children):
        match = _DOUBLE_QUOTED.fullmatch(said)
    else:
        match = None
    if match is None:
        raise _NotPlain
    return match[1]


def _said(node: tree_sitter.Node, line: str) -> str:
    # The line is ASCII, so bytes are characters.
    return line[node.start_byte : node.end_byte]


def _tokens(line: str) -> list[str | None]:
    """The same line as the standard library reads it; operators are None, whatever is quoted is text."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        return list(lexer)
    except ValueError:
        raise _NotPlain from None
