# Sourced by the scripts beside it: where the environment is, and whether it is what the lock asks for.
#
# When it is, no program is started but one `cmp`. When it is not, scripts/environment.py makes it, with the newest
# Python that will do. Sets $root (the checkout) and $venv (its environment).

root=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd -P)
venv=$root/.venv

# need_environment NAME LOCK: return when $venv holds what LOCK lists; else make it so, or exit with a sentence.
need_environment() {
  local name=$1 lock=$2 made=$venv/made-from
  if [ -f "$made/root" ] && [ ! -e "$made/unfinished" ] && [ -x "$venv/bin/python" ] &&
    [ "$(<"$made/root")" = "$root" ] && cmp -s "$root/$lock" "$made/$lock"; then
    return
  fi

  local python real why="there is none on the PATH"
  for python in python3.13 python3.12 python3.11 python3; do
    command -v "$python" >/dev/null 2>&1 || continue
    # The versioned file behind the name: an environment that outlives an upgrade of Python must be made anew.
    real=$("$python" -c 'import os, sys; print(sys.version_info >= (3, 11) and os.path.realpath(sys._base_executable))' 2>/dev/null) || continue
    if [ "$real" = False ]; then
      why="$python is older"
    elif "$real" -c 'import ensurepip, venv' >/dev/null 2>&1; then
      "$real" "$root/scripts/environment.py" "$name" "$lock" || exit $?
      return
    else
      why="$python cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)"
    fi
  done
  echo "$name: Python 3.11 or newer is needed, and $why." >&2
  exit 1
}
