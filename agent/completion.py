"""Completion scripts of the agent's command line for bash, zsh and fish.

Owns the scripts. They know every command and option; keys come from the agent if one answers.
"""

from collections.abc import Mapping

KEYED = ("get", "set", "unset")
"""Commands that take a key."""

KEYS = "fieldfare-agent $given list --json 2>/dev/null"
"""Prints the settings; `$given` names the settings file, if the line does."""

_BASH = r"""_fieldfare_agent() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    local command= given= number
    for ((number = 1; number < COMP_CWORD; number++)); do
        case ${COMP_WORDS[number]} in
            --settings) given="--settings ${COMP_WORDS[number+1]}"; ((number++)) ;;
            -*) ;;
            *) command=${COMP_WORDS[number]}; break ;;
        esac
    done
    COMPREPLY=()
    if [ "$before" = --settings ]; then
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -- "$word"))
    elif [ -z "$command" ]; then
        COMPREPLY=($(compgen -W "@WORDS@ --settings --help" -- "$word"))
    elif [ "$command" = completion ] && [ "$before" = completion ]; then
        COMPREPLY=($(compgen -W "bash zsh fish --json --help" -- "$word"))
    elif [[ " @KEYED@ " == *" $command "* ]] && [ "$before" = "$command" ]; then
        COMPREPLY=($(compgen -W "$(@KEYS@ | @NAMES@) --json --help" -- "$word"))
    else
        COMPREPLY=($(compgen -W "--json --help" -- "$word"))
    fi
}
complete -F _fieldfare_agent fieldfare-agent"""

_ZSH = r"""#compdef fieldfare-agent
_fieldfare_agent() {
    local command= number
    local -a given
    for ((number = 2; number < CURRENT; number++)); do
        case ${words[number]} in
            --settings) given=(--settings ${words[number+1]}); ((number++)) ;;
            -*) ;;
            *) command=${words[number]}; break ;;
        esac
    done
    if [[ ${words[CURRENT-1]} == --settings ]]; then
        _files
    elif [[ -z $command ]]; then
        compadd -- @WORDS@ --settings --help
    elif [[ ${words[CURRENT-1]} == completion ]]; then
        compadd -- bash zsh fish --json --help
    elif [[ " @KEYED@ " == *" $command "* && ${words[CURRENT-1]} == $command ]]; then
        compadd -- $(@KEYS@ | @NAMES@) --json --help
    else
        compadd -- --json --help
    fi
}
compdef _fieldfare_agent fieldfare-agent"""

_FISH = r"""function __fieldfare_agent_keys
    fieldfare-agent list --json 2>/dev/null | @NAMES@
end
complete -c fieldfare-agent -f
complete -c fieldfare-agent -n __fish_use_subcommand -l settings -r -F -d "settings file (TOML)"
complete -c fieldfare-agent -n "not __fish_use_subcommand" -l json -d "answer as JSON"
complete -c fieldfare-agent -l help -d "say what it is for"
complete -c fieldfare-agent -n "__fish_seen_subcommand_from completion" -a "bash zsh fish"
complete -c fieldfare-agent -n "__fish_seen_subcommand_from @KEYED@" -a "(__fieldfare_agent_keys)"
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}

_NAMES = r"""grep -o '"key": "[^"]*"' | cut -d '"' -f 4"""


def script(shell: str, commands: Mapping[str, str]) -> str:
    """Return the script for `shell`, given each command and what it does."""
    text = _SCRIPTS[shell].replace("@WORDS@", " ".join(commands))
    text = text.replace("@KEYED@", " ".join(KEYED)).replace("@KEYS@", KEYS)
    text = text.replace("@NAMES@", _NAMES)
    if shell == "fish":
        text += "\n".join(
            f'complete -c fieldfare-agent -n __fish_use_subcommand -a {name} -d "{meaning}"'
            for name, meaning in commands.items()
        )
    return text
