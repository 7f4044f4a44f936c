"""The tools `write`, `edit` and `multi_edit`: files made and changed.

All three ask first, with the very change that would be made. What a change
comes to is `edits`, how it gets to the disk `replacing`; here are the inputs
and what is said. A file is never deleted: `edit` deletes text.
"""

from dataclasses import replace
from typing import Annotated, Final

import msgspec

from atrio_agent.ask import Ask
from atrio_agent.tools.base import Place, ToolFailed, ToolInput, ToolOutcome, description_of
from atrio_agent.tools.confine import apparent_path
from atrio_agent.tools.edits import Edit, apply_edits, rewritten
from atrio_agent.tools.output import MAX_TITLE_CHARS, counted, shown
from atrio_agent.tools.replacing import Rewrite, Rewritten, make_change, plan_change
from atrio_agent.tools.threads import in_changing_thread, in_files_thread
from atrio_protocol.content import TextBlock
from atrio_protocol.parts import Location, ToolKind

__all__ = ["EditFile", "EditInput", "EditStep", "MultiEdit", "MultiEditInput", "Write", "WriteInput"]

_MAX_EDITS: Final = 200

_Path = Annotated[str, msgspec.Meta(description="The file, relative to the workspace or absolute.")]
_Old = Annotated[str, msgspec.Meta(description="The text to replace; with enough around it to be found once.")]
_New = Annotated[str, msgspec.Meta(description="What is to stand there; empty to delete it.")]
_Everywhere = Annotated[bool, msgspec.Meta(description="Replace every occurrence. Default: it must be the only one.")]


class WriteInput(ToolInput):
    path: _Path
    content: Annotated[str, msgspec.Meta(description="All that the file is to hold.")]


class EditInput(ToolInput):
    path: _Path
    old: _Old
    new: _New
    replace_all: _Everywhere | None = None


class EditStep(ToolInput):
    old: _Old
    new: _New
    replace_all: _Everywhere | None = None


class MultiEditInput(ToolInput):
    path: _Path
    edits: Annotated[
        tuple[EditStep, ...], msgspec.Meta(description="Made in this order.", min_length=1, max_length=_MAX_EDITS)
    ]


class Write:
    """Give a file a whole new content, or make it."""

    name: str = "write"
    kind: ToolKind = "edit"
    description: str = description_of("write")
    input_type: type[ToolInput] = WriteInput

    def title(self, given: WriteInput) -> str:
        """Such as ``Write src/a.py``."""
        return f"Write {shown(given.path, max_chars=MAX_TITLE_CHARS)}"

    def locations(self, given: WriteInput, place: Place) -> tuple[Location, ...]:
        """The file."""
        return (Location(path=apparent_path(given.path, place.root)),)

    async def ask(self, given: WriteInput, place: Place) -> Ask | None:
        """Ask for the directory, with the change."""
        return await _ask(self.title(given), given.path, place, self._rewrite(given))

    async def run(self, given: WriteInput, place: Place) -> ToolOutcome:
        """Write.

        Raises:
            ToolFailed: The file cannot be made or changed, or is not as the session has seen it.
        """
        return await _change(given.path, place, self._rewrite(given))

    def _rewrite(self, given: WriteInput) -> Rewrite:
        def rewrite(old: str | None) -> Rewritten:
            return Rewritten(given.content if old is None else rewritten(old, given.content))

        return rewrite


class EditFile:
    """Replace a piece of a file, or make the file."""

    name: str = "edit"
    kind: ToolKind = "edit"
    description: str = description_of("edit")
    input_type: type[ToolInput] = EditInput

    def title(self, given: EditInput) -> str:
        """Such as ``Edit src/a.py``."""
        return f"Edit {shown(given.path, max_chars=MAX_TITLE_CHARS)}"

    def locations(self, given: EditInput, place: Place) -> tuple[Location, ...]:
        """The file."""
        return (Location(path=apparent_path(given.path, place.root)),)

    async def ask(self, given: EditInput, place: Place) -> Ask | None:
        """Ask for the directory, with the change."""
        return await _ask(self.title(given), given.path, place, _edits_of(given.path, (given,)))

    async def run(self, given: EditInput, place: Place) -> ToolOutcome:
        """Edit.

        Raises:
            ToolFailed: What is to be replaced is not to be found, or the file
                cannot be changed or is not as the session has seen it.
        """
        return await _change(given.path, place, _edits_of(given.path, (given,)))


class MultiEdit:
    """Replace several pieces of a file, all of them or none."""

    name: str = "multi_edit"
    kind: ToolKind = "edit"
    description: str = description_of("multi_edit")
    input_type: type[ToolInput] = MultiEditInput

    def title(self, given: MultiEditInput) -> str:
        """Such as ``Edit src/a.py in 3 places``."""
        return f"Edit {shown(given.path, max_chars=MAX_TITLE_CHARS)} in {counted(len(given.edits), 'place')}"

    def locations(self, given: MultiEditInput, place: Place) -> tuple[Location, ...]:
        """The file."""
        return (Location(path=apparent_path(given.path, place.root)),)

    async def ask(self, given: MultiEditInput, place: Place) -> Ask | None:
        """Ask for the directory, with the change."""
        return await _ask(self.title(given), given.path, place, _edits_of(given.path, given.edits))

    async def run(self, given: MultiEditInput, place: Place) -> ToolOutcome:
        """Edit.

        Raises:
            ToolFailed: As for `EditFile`; the sentence says which edit it was, and none was made.
        """
        return await _change(given.path, place, _edits_of(given.path, given.edits))


def _edits_of(path: str, steps: tuple[EditInput | EditStep, ...]) -> Rewrite:
    def rewrite(old: str | None) -> Rewritten:
        edits = [Edit(step.old, step.new, bool(step.replace_all)) for step in steps]
        text = old or ""
        if not edits[0].old and not text:
            text = edits.pop(0).new  # makes a file, or fills one
            if not edits:
                return Rewritten(text)
        if old is None and len(edits) == len(steps):
            raise ToolFailed(
                f"'{shown(path, max_chars=200)}' does not exist. To make it, leave 'old' empty, or use write."
            )
        done = apply_edits(text, edits)
        notes: list[str] = []
        replaced = sum(each.replaced for each in done)
        if any(edit.everywhere for edit in edits):
            notes.append(f"{counted(replaced, 'place')} replaced.")
        if any(each.loosely for each in done):
            notes.append(
                "'old' was not there exactly; it was found when spaces were ignored, and 'new' was moved to the depth"
                " of what is there. Check the result."
            )
        return Rewritten(done[-1].text, tuple(notes))

    return rewrite


async def _ask(title: str, path: str, place: Place, rewrite: Rewrite) -> Ask:
    # Looking is not doing: what is outside may be looked at if it was read, and nothing of it goes to the model.
    change = await in_files_thread(plan_change, path, replace(place, permitted=True, permitted_where=None), rewrite)
    resolved = change.at.resolved
    return Ask(
        action="write",
        title=title,
        where=str(resolved.parent),
        detail=change.summary(place.root, done=False),
        path=str(resolved),
        diffs=(change.diff,),
    )


async def _change(path: str, place: Place, rewrite: Rewrite) -> ToolOutcome:
    change, seen = await in_changing_thread(lambda chance: make_change(path, place, rewrite, chance))
    place.seen[str(change.at.resolved)] = seen
    return ToolOutcome(content=(TextBlock(text=change.summary(place.root, done=True)),), diffs=(change.diff,))
