"""What shells complete: bash, zsh and fish, made of the parsers.

shtab makes it for bash and zsh. That of Debian knows no fish. fish's own command takes what a parser knows as it is, a
line for each option.

For ``sync`` it is what the shell knows of rsync, and the options that are sparsesync's own: shells/ has that part, in
each shell's language, and it goes behind what shtab makes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import shtab

from sparsesync.commands.main import parser
from sparsesync.engine.files.claims import HOLES

SHELLS = Path(__file__).parent / "shells"

FOLDERS = {
    "bash": ("share/bash-completion/completions", "sparsesync"),
    "zsh": ("share/zsh/site-functions", "_sparsesync"),
    "fish": ("share/fish/vendor_completions.d", "sparsesync.fish"),
}
"""Where each shell looks, below the prefix of an installation, and for what name."""

_FILES = ("PATH", "FILE", "SRC", "A", "B")
"""What stands for a file in the help."""

_MENDED = (
    ('_choices"\n', '_choices[@]"\n'),
    ('-W "${current_action_choices}"', """-W "${current_action_choices// /$'\\n'}\""""),
    ("    local IFS=$'\\n'\n", "    [[ -z $current_action_compgen ]] || compopt -o filenames\n    local IFS=$'\\n'\n"),
)
"""What shtab 1.5, which Debian 12 has, says wrongly to bash: the first of the choices only, and files as any word."""


def write(folder: Path) -> list[Path]:
    """Write a file for each shell into a folder, below it as below a prefix, and return their paths."""
    paths = []
    for shell, (place, name) in FOLDERS.items():
        path = folder / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_script(shell), encoding="utf-8")
        paths.append(path)
    return paths


def _script(shell: str) -> str:
    whole = parser()
    (subparsers,) = (action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
    for command in subparsers.choices.values():
        for action in command._actions:
            if action.metavar in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
                action.help = "" if action.help == argparse.SUPPRESS else action.help
            elif action.metavar == "DIR":
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    made: str = _fish(subparsers) if shell == "fish" else shtab.complete(whole, shell)
    if shell == "zsh":
        # It ends by what calls it, and ours has to be called instead.
        made = made.rpartition("typeset -A opt_args")[0]
    for wrong, right in _MENDED if shell == "bash" else ():
        made = made.replace(wrong, right)
    ours = [action for action in subparsers.choices["sync"]._actions if action.option_strings[0].startswith("--seed-")]
    typed = {action.option_strings[0] + "=" * (action.nargs != 0): action.help for action in ours}
    described = "\n".join(f"    {_quote(f'{name}:{does}')}" for name, does in typed.items())
    last = (SHELLS / f"sync.{shell}").read_text(encoding="utf-8")
    for name, value in (("HOLES", " ".join(HOLES)), ("OPTIONS", " ".join(typed)), ("DESCRIBED", described)):
        last = last.replace(f"@{name}@", value)
    return made + last


def _fish(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> str:
    """Return what fish completes: a line for each command, option and choice."""
    lines = ["complete -c sparsesync -e", "complete -c sparsesync -n __sparsesync_is -f -l version -s h -l help"]
    told = {action.dest: action.help or "" for action in commands._choices_actions}
    for name, command in commands.choices.items():
        lines.append(f"complete -c sparsesync -n __sparsesync_is -f -a {name} -d {_fish_quote(told[name])}")
        formatter = command._get_formatter()
        for action in command._actions:
            options = [option for option in action.option_strings if "=" not in option]
            if action.help == argparse.SUPPRESS or not (options or action.choices):
                continue
            words = ["complete -c sparsesync -n", f"'__sparsesync_is {name}'"]
            words += [f"-{'l' if option.startswith('--') else 's'} {option.lstrip('-')}" for option in options]
            if action.choices:
                words.append(f"{'-x' if options else '-k'} -a {_fish_quote(' '.join(action.choices))}")
            elif action.metavar == "DIR":
                words.append("-x -a '(__fish_complete_directories)'")
            elif action.nargs != 0:
                words.append("-r -F" if action.metavar in _FILES else "-x")
            if options:
                words.append(f"-d {_fish_quote(formatter._expand_help(action) if action.help else '')}")
            lines.append(" ".join(words))
    return "\n".join(lines) + "\n"


def _fish_quote(word: str) -> str:
    return "'" + word.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quote(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"
