"""Which command lines run without a question: few, and nothing that only looks like them."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atrio_agent.tools.base import Place
from atrio_agent.tools.commands import plain_commands
from atrio_agent.tools.process import child_environment, child_path
from atrio_agent.tools.programs import CAREFUL_GIT, AllowList, AllowListMalformed

UNASKED = [
    "ls",
    " ls -la ",
    "ls -la sub",
    "ls -1 sub/a.txt",
    "cat a.txt",
    "cat 'a.txt' \"sub/a.txt\"",
    "cat -n a.txt | head -n 5 | wc -l",
    "head -5 a.txt && tail -n +3 a.txt",
    "ls|wc -l&&pwd",
    "echo hello world",
    "echo 'a; b > c $(d)'",
    'echo "a; b > c (d) | e & f"',
    "grep -rn 'foo|bar' sub",
    "grep --include='*.py' -r x .",
    "wc -l a.txt sub/a.txt",
    "stat a.txt",
    "du -sh sub",
    "basename sub/a.txt .txt",
    "pwd",
    "git status",
    "git status --short --branch",
    "git --no-pager log --oneline -n 5",
    "git log -5 --stat -- a.txt",
    "git log --since='2 weeks ago' main..HEAD~1",
    "git diff --cached --stat",
    "git diff HEAD~1 sub/a.txt",
    "git show HEAD:a.txt",
    "git branch --list",
    "git branch --show-current",
    "git rev-parse --abbrev-ref HEAD",
    "git ls-files sub",
]

ASKED = [
    # more than one line, or not joined by | or &&
    "ls; rm -rf .",
    "ls;",
    ";ls",
    "ls\nrm a.txt",
    "ls\n",
    "ls\r\nrm a.txt",
    "ls & rm a.txt",
    "ls &",
    "ls || rm a.txt",
    "ls |& tee x",
    "ls && rm a.txt",
    "rm a.txt && ls",
    "ls | tee x",
    "ls | sh",
    "ls &&",
    "&& ls",
    "ls | ",
    "! ls",
    "time ls",
    "(ls)",
    "{ ls; }",
    "ls # comment",
    "ls \\\n-la",
    "",
    " ",
    # substitutions and expansions
    "echo $(rm a.txt)",
    "echo `rm a.txt`",
    'echo "$(rm a.txt)"',
    'echo "`rm a.txt`"',
    "echo $HOME",
    'echo "$HOME"',
    "echo ${HOME}",
    "echo $((1+1))",
    "echo $'\\x41'",
    'echo $"a"',
    "cat <(rm a.txt)",
    "ls >(cat)",
    "echo !!",
    'echo "!!"',
    # redirections
    "ls > out",
    "ls >> out",
    "ls 2>out",
    "ls &> out",
    "ls >&out",
    "ls >| out",
    "echo a>a.txt",
    "cat < /etc/passwd",
    "cat <<EOF\nx\nEOF",
    "cat <<< x",
    # variables, wrappers and other ways to say the same
    "A=1 ls",
    "PATH=. ls",
    "LD_PRELOAD=./x.so ls",
    "env ls",
    "env X=1 ls",
    "command ls",
    "builtin echo",
    "exec ls",
    "eval ls",
    "sudo ls",
    "nohup ls",
    "xargs rm",
    "ls | xargs rm",
    "bash -c ls",
    "sh a.txt",
    "source a.txt",
    ". a.txt",
    "alias ls=rm",
    "ls() { rm a.txt; }",
    "function ls { rm a.txt; }",
    "cd /",
    "cd sub && ls",
    "for f in a; do ls; done",
    "if ls; then ls; fi",
    "[ -e a.txt ]",
    "[[ -e a.txt ]]",
    "coproc ls",
    # the program's name
    "./ls",
    "sub/ls",
    "/bin/ls",
    "../ls",
    "'ls'",
    '"ls"',
    "l''s",
    'l"s"',
    "l\\s",
    "\\ls",
    "$x",
    "LS",
    "ls.",
    "lsx",
    "unknown",
    "ls\u200b",
    "\u217cs",
    "l\u0455",
    "cat\u00a0a.txt",
    "cat a\u2024txt",
    "cat 'ä'",
    # words that the shell would change
    "cat *",
    "cat a.tx?",
    "cat [a].txt",
    "cat {a,b}.txt",
    "cat {a..b}",
    "cat ~/x",
    "cat ~root/x",
    "echo a=~root",
    "echo a:~",
    "cat a\\ b",
    "cat a'.txt'",
    "grep --include='*'.py -r x .",
    "grep --include=*'.py' -r x .",
    "git log -'p'",
    "git log --out'put=x'",
    'cat "a".txt',
    "cat @(a|b)",
    "cat 'a.txt",
    'cat "a.txt',
    # options that do more than read, or that are not known
    "ls --unknown",
    "tail -f a.txt",
    "tail --follow a.txt",
    "head -n x a.txt",
    "head -n",
    "wc --files0-from=a.txt",
    "grep -f a.txt b",
    "grep -R x .",
    "grep -P x .",
    "du --files0-from=a.txt",
    "find .",
    "find . -exec rm a.txt +",
    "find . -delete",
    "find . -fprint out",
    "sort -o a.txt a.txt",
    "sort --output=a.txt a.txt",
    "sed -i s/a/b/ a.txt",
    "sed -n 1p a.txt",
    "awk 1 a.txt",
    "tar --to-command=sh -xf a.tar",
    "rg --pre sh x",
    "uniq a.txt b.txt",
    "tee a.txt",
    "python -c 1",
    "date -s 1",
    "less a.txt",
    # git
    "git",
    "git -c core.pager=sh log",
    "git -C / log",
    "git --exec-path=. status",
    "git --git-dir=x status",
    "git --work-tree=/ status",
    "git -p log",
    "git --paginate log",
    "git config -l",
    "git commit -m x",
    "git push",
    "git fetch",
    "git stash",
    "git checkout a.txt",
    "git branch new",
    "git branch -D main",
    "git branch --list -d main",
    "git branch --edit-description",
    "git log --output=a.txt",
    "git diff --output=a.txt",
    "git diff --outpu=a.txt",
    "git diff --ext-diff",
    "git diff --textconv",
    "git diff --no-index a.txt /etc/passwd",
    "git log --format=%G?",
    "git log --pretty=format:%GG",
    "git log --show-signature",
    "git log -O/etc/passwd",
    "git grep -O x",
    "git show --format=%x",
    "git status --untracked-files=all",
    "git ls-files -X /etc/passwd",
    "git diff ../outside",
    "git submodule foreach ls",
    "git help log",
    # paths that lead out, or to what is closed
    "cat /etc/passwd",
    "cat ../outside/secret.txt",
    "cat sub/../../outside/secret.txt",
    "cat link",
    "cat linked/secret.txt",
    "ls ..",
    "ls /",
    "ls -R linked",
    "cat /proc/self/environ",
    "head -c 10 /dev/zero",
    "cat -- /etc/passwd",
    "cat -n -- -n /etc/passwd",
    "grep root /etc/passwd",
    "grep -r x a.txt /etc",
    "stat ../outside",
    "echo " + "a" * 5_000,
]


@pytest.fixture
def place(root: Path, outside: Path) -> Place:
    """A repository with a link out of it and a closed directory in it."""
    (root / "sub").mkdir()
    (root / "above" / "closed").mkdir(parents=True)
    for name in ("a.txt", "sub/a.txt", "above/closed/state"):
        (root / name).write_text("text\n")
    (root / "closed").symlink_to(root / "above" / "closed")
    (root / "link").symlink_to(outside / "secret.txt")
    (root / "linked").symlink_to(outside)
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "a.txt", "sub")
    git(root, "commit", "-q", "-m", "first")
    return Place(root=root, session_id="s", run_id="r", tool_call_id="t", closed=(root / "above" / "closed",))


def git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, env=environment)


def allows(command: str, place: Place, *additions: str, where: str = "sub", path: str | None = None) -> bool:
    return AllowList(additions).allows(command, (place.root / where).resolve(), place, path or child_path())


def open_place(place: Place) -> Place:
    """The same without the closed directory, which would make every look at the whole workspace ask."""
    return Place(root=place.root, session_id="s", run_id="r", tool_call_id="t")


@pytest.mark.parametrize("command", UNASKED)
def test_a_plain_reading_command_needs_no_question(place: Place, command: str) -> None:
    assert allows(command, open_place(place), where=".")


@pytest.mark.parametrize("command", ASKED)
def test_anything_else_asks(place: Place, command: str) -> None:
    assert not allows(command, open_place(place), where=".")


@pytest.mark.parametrize(
    "command", ["cat ../closed/state", "ls ../above/closed", "du -sh ../above", "grep -r x ../above", "ls -R .."]
)
def test_a_closed_directory_is_not_read_by_a_command_either(place: Place, command: str) -> None:
    assert allows(command, open_place(place)) is True
    assert allows(command, place) is False


def test_a_directory_with_a_closed_one_beneath_it_is_not_listed_unasked(place: Place) -> None:
    assert not allows("ls -R", place, where=".")
    assert not allows("ls -R", place, where="above")
    assert allows("ls -R", place, where="sub")


@pytest.mark.parametrize(
    "config",
    [
        "[core]\n\tfsmonitor = ./evil\n",
        "[CORE]\n\tFsMonitor = ./evil\n",
        "[core]\n\tfsmo\\\nnitor = ./evil\n",
        "[core]\n\thooksPath = evil\n",
        "[core]\n\tworktree = /\n",
        '[filter "x"]\n\tclean = ./evil\n',
        '[diff "x"]\n\ttextconv = ./evil\n',
        "[diff]\n\texternal = ./evil\n",
        "[include]\n\tpath = ../evil\n",
        "[gpg]\n\tprogram = ./evil\n",
        "[format]\n\tpretty = %G?\n",
    ],
)
def test_a_repository_that_names_programs_makes_git_ask(place: Place, config: str) -> None:
    with (place.root / ".git" / "config").open("a") as file:
        file.write(config)
    assert not allows("git status", open_place(place))


def test_other_kinds_of_repositories_make_git_ask(place: Place, outside: Path) -> None:
    opened = open_place(place)
    assert allows("git status", opened)
    nested = place.root / "sub"
    (nested / ".git").write_text(f"gitdir: {outside}\n")
    assert not allows("git status", opened)
    (nested / ".git").unlink()
    (nested / ".git").symlink_to(place.root / ".git")
    assert not allows("git status", opened)
    (nested / ".git").unlink()
    (place.root / ".git" / "modules").mkdir()
    assert not allows("git status", opened)
    (place.root / ".git" / "modules").rmdir()
    git(place.root, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},other")
    assert not allows("git status", opened)


def test_a_repository_that_git_passes_over_hides_no_other(place: Place) -> None:
    """Git takes a directory named .git for a repository only if it has all that one needs."""
    opened = open_place(place)
    nested = place.root / "sub" / ".git"
    nested.mkdir()
    (nested / "config").write_text("")
    assert allows("git diff", opened)
    with (place.root / ".git" / "config").open("a") as file:
        file.write("[diff]\n\texternal = ./evil\n")
    assert not allows("git diff", opened)


@pytest.mark.parametrize("name", ["HEAD", "objects", "refs", "objects/pack"])
def test_a_repository_with_a_link_to_another_one_makes_git_ask(place: Place, outside: Path, name: str) -> None:
    there = place.root / ".git" / name
    there.rename(outside / "moved")
    there.symlink_to(outside / "moved")
    assert not allows("git log", open_place(place))


def test_what_may_be_a_repository_without_a_work_tree_makes_git_ask(place: Place) -> None:
    git(place.root, "init", "-q", "--bare", "sub/bare")
    assert allows("git log", open_place(place))
    assert not allows("git log", open_place(place), where="sub/bare")
    assert not allows("git log", open_place(place), where=".git")


def test_a_repository_with_filters_makes_git_ask(place: Place) -> None:
    (place.root / ".gitattributes").write_text("*.bin filter=lfs\n")
    assert not allows("git status", open_place(place))


def test_the_closed_directory_of_a_workspace_keeps_no_other_command_from_running(place: Place) -> None:
    closed = Place(root=place.root, session_id="s", run_id="r", tool_call_id="t", closed=(place.root / ".atrio",))
    assert allows("ls -R && grep -r x . && du -s", closed, where=".")
    (place.root / ".atrio").mkdir()
    assert allows("ls -la . && git status && cat a.txt && grep x a.txt", closed, where=".")
    for command in (
        "ls -R",
        "ls --recursive .",
        "grep -r x",
        "grep -nr x .",
        "du",
        "cat .atrio/config.toml",
        "ls .atrio",
    ):
        assert not allows(command, closed, where="."), command


def test_git_neither_writes_nor_starts_what_the_user_s_settings_name(place: Place, tmp_path: Path) -> None:
    root, ran = place.root, tmp_path / "ran"
    (tmp_path / ".gitconfig").write_text(
        f'[filter "x"]\n\tclean = touch {ran}; cat\n[diff "x"]\n\ttextconv = touch {ran}; cat\n'
        f"[diff]\n\texternal = touch {ran}\n[core]\n\tfsmonitor = touch {ran}\n"
    )
    (root / "sub" / ".gitattributes").write_text("* filter=x diff=x\n")
    (root / "sub" / "a.txt").write_text("other\n")
    os.utime(root / "a.txt", (1, 1))
    index = (root / ".git" / "index").read_bytes()
    environment = child_environment("r") | CAREFUL_GIT | {"HOME": str(tmp_path)}
    for command in ("git status", "git diff", "git log -p", "git show", "git ls-files -m"):
        assert allows(command, open_place(place), where=".")
        subprocess.run(command.split(), cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert not ran.exists()
    assert (root / ".git" / "index").read_bytes() == index


def test_a_repository_above_the_workspace_makes_git_ask(place: Place) -> None:
    inner = Place(root=place.root / "sub", session_id="s", run_id="r", tool_call_id="t")
    assert AllowList().allows("ls", inner.root, inner, child_path())
    assert not AllowList().allows("git log", inner.root, inner, child_path())


def test_a_program_of_the_workspace_with_a_known_name_asks(place: Place) -> None:
    program = place.root / "bin" / "ls"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nrm -rf .\n")
    program.chmod(0o755)
    assert allows("ls", open_place(place))
    assert not allows("ls", open_place(place), path=f"{program.parent}:{child_path()}")


def test_a_link_on_the_path_to_a_program_of_the_workspace_asks(place: Place, tmp_path: Path) -> None:
    program = place.root / "ls"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ls").symlink_to(program)
    assert not allows("ls", open_place(place), path=f"{tmp_path / 'bin'}:{child_path()}")


def test_a_shell_of_the_workspace_makes_everything_ask(place: Place) -> None:
    program = place.root / "bin" / "bash"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert not allows("ls", open_place(place), path=f"{program.parent}:{child_path()}")


@pytest.mark.parametrize(
    ("command", "is_allowed"),
    [
        ("true -x y", True),
        ("true  '-x'   \"y\"", True),
        ("true -x", False),
        ("true -x y z", False),
        ("true -x yz", False),
        ("true -x y; ls", False),
        ("true -x y && cat a.txt", True),
        ("true -x y > a.txt", False),
        ("wc run a.txt", True),
        ("wc run", True),
        ("wc run -x", False),
        ("wc run --x", False),
        ("wc run ../../outside/secret.txt", False),
        ("wc runs", True),  # a path of the workspace: the list itself has wc
        ("env run", False),
    ],
)
def test_additions_are_compared_word_by_word(place: Place, command: str, is_allowed: bool) -> None:
    assert allows(command, open_place(place), "true -x y", "wc run *") is is_allowed


@pytest.mark.parametrize("line", ["", "*", "a; b", "a && b", "a | b", "$x", "./a", "a * b", "a >b"])
def test_an_addition_that_is_no_plain_command_is_refused(line: str) -> None:
    with pytest.raises(AllowListMalformed, match="not one plain command"):
        AllowList([line])


def test_words_are_taken_out_of_their_quotes() -> None:
    assert plain_commands("echo 'a  b' \"c d\" e|wc -l && pwd") == (
        ("echo", "a  b", "c d", "e"),
        ("wc", "-l"),
        ("pwd",),
    )
    assert plain_commands("echo '' \"\"") == (("echo", "", ""),)


@given(st.text(alphabet="ab1 -./'\"\\$`*?[]{},~!#;&|<>()=:@%^+\t\n", max_size=12))
@example("a 'b c'\"d\"")
@example("--x='a b'")
@example("a:~ =~")
def test_a_shell_makes_the_same_words_of_what_is_plain(arguments: str) -> None:
    commands = plain_commands(f"echo {arguments}")
    if commands is None or len(commands) != 1:
        return
    bash = ["bash", "--noprofile", "--norc", "-c", f"printf '%s\\0' {arguments}"]
    printed = subprocess.run(bash, capture_output=True, check=True, cwd="/usr/bin", text=True).stdout
    assert tuple(printed.split("\0")[:-1]) == (commands[0][1:] or ("",))
