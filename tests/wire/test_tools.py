"""Tools over the wire: what may not be read, changed or run, however it is asked for.

Each way round the rules is tried by a model that means harm, in a session of its
own. Nobody answers, or the server's policy does; afterwards the disk is as it was.
"""

import os
import socket
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from atrio_agent.store.versions import digest_of
from wire.client import Wire
from wire.conftest import Harness
from wire.steps import new_session

Json = dict[str, Any]

SECRET = "what lies outside and must not get out"

# Paths by what they are. All lead out of the workspace, to what is no file, or to what is closed.
ESCAPES = {
    "one up": "../outside/secret.txt",
    "up from below": "dir/../../outside/secret.txt",
    "up through what is not there": "nowhere/../../outside/secret.txt",
    "up behind a link": "to_dir/../outside/secret.txt",
    "absolute": "{base}/outside/secret.txt",
    "absolute, through the workspace": "{root}/../outside/secret.txt",
    "neighbour with the same beginning": "{root}-evil/secret.txt",
    "two slashes": "/{base}/outside/secret.txt",
    "slashes and dots": ".//..//.//outside///secret.txt",
    "trailing slash": "../outside/secret.txt/",
    "trailing dot": "../outside/secret.txt/.",
    "link to a file": "to_file",
    "link to a directory": "to_dir/secret.txt",
    "link to a link to a link": "first",
    "link that goes up": "dir/up/outside/secret.txt",
    "link to what is not there": "dangling",
    "link to itself": "self",
    "link into the state directory": "to_state/token",
    "the state directory": "{base}/state/token",
    "Atrio's own configuration": ".atrio/config.toml",
    "link to Atrio's own configuration": "to_config/config.toml",
    "the root by way of /proc": "/proc/self/root{base}/outside/secret.txt",
    "the working directory by way of /proc": "/proc/self/cwd/secret.txt",
    "the server's environment": "/proc/self/environ",
    "standard input": "/dev/stdin",
    "a descriptor": "/dev/fd/0",
    "a device": "/dev/zero",
    "/sys": "/sys/kernel/uevent_seqnum",
    "a pipe": "pipe",
    "a socket": "socket",
    "a NUL": "a.txt\0/../../outside/secret.txt",
    "a very long name": "x" * 5_000,
    "a URL": "file://{base}/outside/secret.txt",
    "home": "~/../outside/secret.txt",
    "a variable": "$HOME/../../outside/secret.txt",
    "a file as a directory": "a.txt/../../outside/secret.txt",
}
# New names that only look like a way out, and files of the workspace that matter: a change asks.
ASKED_TO_WRITE = {
    "a hook": ".git/hooks/pre-commit",
    "a repository's configuration": ".git/config",
    "a hard link": "hard",
    "a line end": "a\n../outside/secret.txt",
    "upper case": "A.TXT",
    "a look-alike": "\uff0e\uff0e/outside",
    "a tilde": "~",
    "a variable": "$HOME",
}

BYPASSES = [
    "ls; touch hit",
    "ls\ntouch hit",
    "ls\r\ntouch hit",
    "ls & touch hit",
    "ls || touch hit; true",
    "ls | tee hit",
    "ls > hit",
    "ls >| hit",
    "echo $(touch hit)",
    'echo "$(touch hit)"',
    "echo `touch hit`",
    "cat <(touch hit)",
    "cat <<< $(touch hit)",
    "cat <<EOF\n$(touch hit)\nEOF",
    "echo $((a[$(touch hit)]))",
    "echo ${x:-$(touch hit)}",
    "env touch hit",
    "X=1 touch hit",
    "BASH_ENV=./evil ls",
    "PATH=.:$PATH evil",
    "command touch hit",
    "exec touch hit",
    "eval 'touch hit'",
    "coproc touch hit",
    "! touch hit",
    "ls() { touch hit; }; ls",
    "alias ls='touch hit'\nls",
    "./evil",
    "evil",
    "$'touch' hit",
    "t'o'uch hit",
    "ls\u00a0; touch hit",
    "ls # \n touch hit",
    "{touch,hit}",
    "cat ~+/a.txt",
    "cat *",
    "git -c core.pager='touch hit' -p log",
    "git -c alias.x='!touch hit' x",
    "git --exec-path=. log",
    "git diff --ext-diff",
    "git log --output=hit",
    "git diff --output=hit a.txt",
    "git grep --open-files-in-pager='touch hit' text",
    "find . -name a.txt -exec touch hit ;",
    "find . -fprint hit",
    "find . -delete",
    "sort --output=hit a.txt",
    "sort -o hit a.txt",
    "xargs touch",
    "ls | xargs touch",
    "tail -f a.txt",
]


def turns(calls: dict[str, tuple[str, Json]]) -> list[Json]:
    """A script in which the prompt with a name makes the call of that name."""
    return [
        {"match": f"^{name}$", "responses": [[{"tool": tool, "input": given}], [{"say": "done"}]]}
        for name, (tool, given) in calls.items()
    ]


def git(directory: Path, *words: str) -> None:
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run(["git", *who, *words], cwd=directory, env=environment, check=True)


@pytest.fixture
def maze(bench: Harness) -> Path:
    """A workspace with ways out of every kind."""
    root, outside = bench.directory, bench.root / "outside"
    for directory in (outside, root / "dir", root / ".atrio", root.with_name("project-evil")):
        directory.mkdir()
    (outside / "secret.txt").write_text(SECRET)
    (root.with_name("project-evil") / "secret.txt").write_text(SECRET)
    (root / "a.txt").write_text("text\n")
    (root / "evil").write_text("#!/bin/sh\ntouch hit\n")
    (root / "evil").chmod(0o755)
    (root / ".atrio/config.toml").write_text("# nothing\n")
    for name, target in {
        "to_file": outside / "secret.txt",
        "to_dir": outside,
        "first": "second",
        "second": "third",
        "third": "../outside/secret.txt",
        "dir/up": "../..",
        "dangling": outside / "new.txt",
        "self": "self",
        "to_state": bench.state_dir,
        "to_config": ".atrio",
    }.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(root)  # the name of a socket must be short
        try:
            listening.bind("socket")
        finally:
            os.chdir(here)
    (root / "hard").hardlink_to(outside / "secret.txt")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "a.txt")
    git(root, "commit", "-q", "-m", "first")
    return root


def disk(bench: Harness) -> dict[str, bytes]:
    """All files below the test's directory but those that the server keeps, with their content."""
    found: dict[str, bytes] = {}
    for path in bench.root.rglob("*"):
        if path.is_relative_to(bench.state_dir) and path.name != "token":
            continue
        found[str(path)] = path.read_bytes() if path.is_file() else b""
    return found


async def _ended_or_asked(wire: Wire, session: str, policy: str) -> str:
    """Wait until a session's run has ended, or waits for an answer."""
    ends = ("run.completed", "permission.requested") if policy == "ask" else ("run.completed",)
    return str((await wire.until(lambda: wire.of_type(session, *ends)))[0]["type"])


async def _all_tried(bench: Harness, calls: dict[str, tuple[str, Json]], policy: str) -> dict[str, Json]:
    """Have each call made in a session of its own; gives what became of it, by its name."""
    tried: dict[str, Json] = {}
    model = bench.script(*turns(calls))
    before = disk(bench)
    async with (
        bench.serve(model=model, limit_s=120, permissions=policy) as running,
        bench.open(running) as (wire, workspace),
    ):
        before |= {str(bench.state_dir / "token"): running.token_file.read_bytes()}
        sessions = {name: await new_session(wire, workspace, title=name) for name in calls}
        for name, session in sessions.items():
            await wire.prompt(session, name, runId=f"run of {name}")
        for name, session in sessions.items():
            how = await _ended_or_asked(wire, session, policy)
            parts = [event["value"] for event in wire.of_type(session, "message.part")]
            results = [part for part in parts if part["type"] == "tool_result"]
            for event in wire.of_type(session, "message.created"):
                results += [part for part in event["message"]["parts"] if part["type"] == "tool_result"]
            calls_made = [part for part in parts if part["type"] == "tool_call"]
            started = any(part["status"] in ("in_progress", "completed") for part in calls_made)
            tried[name] = {"how": how, "results": results, "started": started}
        assert SECRET not in repr(wire.frames)
        assert disk(bench).keys() - before.keys() <= {str(bench.state_dir)}
        assert {name: content for name, content in disk(bench).items() if name in before} == before
    return tried


def _refused(one: Json) -> bool:
    return bool(one["how"] == "run.completed" and one["results"] and one["results"][-1]["isError"])


@pytest.mark.scenario("D12")
@pytest.mark.parametrize("policy", ["ask", "deny"])
async def test_no_path_leads_out_unasked(bench: Harness, maze: Path, policy: str) -> None:
    calls: dict[str, tuple[str, Json]] = {}
    for number, path in enumerate(ESCAPES.values()):
        where = path.format(root=maze, base=bench.root)
        calls[f"read {number}"] = ("read", {"path": where})
        calls[f"write {number}"] = ("write", {"path": where, "content": "new\n"})
        calls[f"edit {number}"] = ("edit", {"path": where, "old": "", "new": "new\n"})
    for number, path in enumerate(ASKED_TO_WRITE.values()):
        calls[f"change {number}"] = ("write", {"path": path, "content": "new\n"})
    looks: list[tuple[str, Json]] = [
        ("ls", {"path": ".."}),
        ("ls", {"path": "to_dir"}),
        ("grep", {"pattern": "lies", "path": "../outside"}),
        ("grep", {"pattern": "lies", "path": "to_file"}),
        ("grep", {"pattern": "lies", "include": "../outside/*"}),
        ("glob", {"pattern": "../outside/*"}),
        ("glob", {"pattern": "**/../../outside/*"}),
        ("glob", {"pattern": "*", "path": "dir/up"}),
        ("shell", {"command": "ls", "cwd": "../outside"}),
        ("shell", {"command": "cat secret.txt", "cwd": "to_dir"}),
        ("shell", {"command": "cat ../outside/secret.txt"}),
        ("shell", {"command": "cat to_file"}),
    ]
    calls |= {f"look {number}": look for number, look in enumerate(looks)}
    tried = await _all_tried(bench, calls, policy)
    for name, one in tried.items():
        if name.startswith("look") and one["how"] == "run.completed" and not _refused(one):
            assert "secret.txt" not in repr(one["results"]), name
        else:
            assert _refused(one) or (policy == "ask" and one["how"] == "permission.requested"), name
    for number in range(len(ASKED_TO_WRITE)):
        if policy == "ask" and number not in (0, 1, 2):
            assert tried[f"change {number}"]["how"] == "permission.requested"


async def test_what_is_closed_is_closed_whoever_allows_it(bench: Harness, maze: Path) -> None:
    closed = [path for name, path in ESCAPES.items() if "state" in name or "Atrio" in name or path.startswith("/proc")]
    assert len(closed) > 6
    calls: dict[str, tuple[str, Json]] = {}
    for number, path in enumerate(closed):
        where = path.format(root=maze, base=bench.root)
        calls[f"read {number}"] = ("read", {"path": where})
        calls[f"write {number}"] = ("write", {"path": where, "content": "new\n"})
    tried = await _all_tried(bench, calls, "allow")
    assert [name for name, one in tried.items() if not _refused(one)] == []


@pytest.mark.parametrize("policy", ["ask", "deny"])
async def test_no_command_gets_round_the_list(bench: Harness, maze: Path, policy: str) -> None:
    (maze / "--output=hit").write_text("an option by its looks\n")
    calls: dict[str, tuple[str, Json]] = {
        f"command {number}": ("shell", {"command": command}) for number, command in enumerate(BYPASSES)
    }
    tried = await _all_tried(bench, calls, policy)
    for number, command in enumerate(BYPASSES):
        one = tried[f"command {number}"]
        assert not one["started"], command
        assert one["how"] == ("permission.requested" if policy == "ask" else "run.completed"), command


async def test_a_command_that_only_reads_needs_no_answer(bench: Harness, maze: Path) -> None:
    commands = ["ls -la", "git status --short", "git log --oneline", "git diff", "cat a.txt | wc -l", "pwd"]
    os.utime(maze / "a.txt", (1, 1))  # git would write down that only the time is another
    calls: dict[str, tuple[str, Json]] = {
        f"command {number}": ("shell", {"command": command}) for number, command in enumerate(commands)
    }
    tried = await _all_tried(bench, calls, "ask")
    for number, command in enumerate(commands):
        one = tried[f"command {number}"]
        assert one["how"] == "run.completed", command
        assert one["results"][-1]["exitCode"] == 0, command


READ = {"tool": "read", "input": {"path": "a.txt"}}
EDIT = {"tool": "edit", "input": {"path": "a.txt", "old": "one", "new": "two"}}


@pytest.mark.scenario("D11")
async def test_only_what_was_read_and_is_unchanged_is_edited_and_every_change_is_kept(bench: Harness) -> None:
    file = bench.directory / "a.txt"
    file.write_text("one\n")
    status = file.stat()
    script = bench.script(
        {"match": "^read", "responses": [[READ], [{"say": "read"}]]},
        {"match": "^edit", "responses": [[EDIT], [{"say": "edited"}]]},
    )
    async with bench.serve(model=script, permissions="allow") as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        other = await new_session(wire, workspace)

        async def done(prompt: str, where: str = session) -> Json:
            run_id = f"r{len(wire.frames)}"
            await wire.prompt(where, prompt, runId=run_id)
            await wire.completed(where, run_id)
            messages = (await wire.call("session/messages", sessionId=where))["messages"]
            (part,) = [message["parts"][0] for message in messages if message["role"] == "tool"][-1:]
            return dict(part)

        def replace(content: str, *, rename: bool = False) -> None:
            """Another content, of the same size and with the same time."""
            new = file.with_name("new") if rename else file
            new.write_text(content)
            os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
            new.replace(file)

        def unchanged(result: Json, why: str) -> None:
            assert result["isError"]
            assert why in result["content"][0]["text"]
            assert "two" not in file.read_text()

        unchanged(await done("edit"), "has not been read")
        await done("read", other)
        unchanged(await done("edit"), "has not been read")
        await done("read")
        replace("One\n")
        unchanged(await done("edit"), "has changed since")
        await done("read")
        replace("one\n", rename=True)
        unchanged(await done("edit"), "has changed since")
        await done("read")
        file.write_text("one\n")  # the same content at another time
        unchanged(await done("edit"), "has changed since")
        await done("read")
        result = await done("edit")
        assert not result["isError"]
        (diff,) = result["diffs"]
        assert (diff["path"], diff["oldText"], diff["newText"]) == (str(file), "one\n", "two\n")
        assert "-one\n+two\n" in diff["unified"]
    assert file.read_text() == "two\n"
    (database,) = bench.state_dir.glob("workspaces/*/atrio.db")
    with sqlite3.connect(database) as connection:
        versions = connection.execute("SELECT path, before, after FROM file_versions").fetchall()
    connection.close()
    assert versions == [(str(file), digest_of(b"one\n"), digest_of(b"two\n"))]
