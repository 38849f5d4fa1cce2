"""`plaudit completion`: the scripts for shells, and what they ask when somebody presses Tab.

The script hands over the words that are typed and gets a line for each candidate; where there is none, the shell
completes names of files itself.
"""

from __future__ import annotations

import typer

_BASH = """\
# eval "$(plaudit completion bash)" in ~/.bashrc
_plaudit() {
    local line="${COMP_LINE:0:COMP_POINT}" words
    IFS=$' \\t' read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    local IFS=$'\\n'
    COMPREPLY=($("${words[0]/#\\~/$HOME}" completion bash -- "${words[@]:1}" 2>/dev/null))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    return 0
}
complete -o default -o bashdefault -F _plaudit plaudit
"""

_ZSH = """\
#compdef plaudit
# eval "$(plaudit completion zsh)" in ~/.zshrc, behind compinit
_plaudit() {
    local -a found
    found=("${(@f)$("${(Q)words[1]}" completion zsh -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -z ${found[1]} ]]; then
        compset -P '*='
        _files
    elif [[ ${found[1]%%:*} == *= ]]; then
        _describe plaudit found -S ''
    else
        _describe plaudit found
    fi
}
compdef _plaudit plaudit
"""

_FISH = """\
# plaudit completion fish > ~/.config/fish/completions/plaudit.fish
function __plaudit_asks
    set -l words (commandline -opc) (commandline -ct)
    set -g __plaudit_found ($words[1] completion fish -- $words[2..] 2>/dev/null)
    test (count $__plaudit_found) -gt 0
end
complete -c plaudit -n __plaudit_asks -f -a '(printf "%s\\n" $__plaudit_found)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def command(
    context: typer.Context,
    shell: str = typer.Argument(..., metavar="SHELL", help="bash, zsh or fish."),
    words: list[str] = typer.Argument(None, hidden=True),  # noqa: B008
) -> None:
    """Print the script with which a shell completes commands, methods, options and their values."""
    if shell not in SCRIPTS:
        from plaudit.errors import ConfigError

        raise ConfigError(
            "PL102", f"there is no completion for {shell!r}", where="SHELL", mend=f"one of {', '.join(SCRIPTS)}"
        )
    if words is None or not words:
        typer.echo(SCRIPTS[shell], nl=False)
        return
    from plaudit.cli.candidates import candidates

    for text, meaning in candidates(context.find_root().command, words):
        typer.echo(_line(shell, text, meaning, words[-1]))


def _line(shell: str, text: str, meaning: str, word: str) -> str:
    if shell == "bash":  # it replaces what is behind the last of these signs only
        return text[max(word.rfind("="), word.rfind(":")) + 1 :]
    if shell == "fish":
        return f"{text}\t{meaning}" if meaning else text
    escaped = text.replace("\\", "\\\\").replace(":", "\\:")
    return f"{escaped}:{meaning}" if meaning else escaped


__all__ = ["SCRIPTS", "command"]
