
# What follows "sync" is completed as what follows rsync, and by the options that are sparsesync's own.
_sparsesync() {
    if [[ ${COMP_WORDS[1]} != sync || $COMP_CWORD -lt 2 ]]; then
        _shtab_sparsesync
        return
    fi
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    COMPREPLY=()
    case $prev in
        --seed-holes)
            COMPREPLY=($(compgen -W "@HOLES@" -- "$cur"))
            return
            ;;
        --seed-min-hole)
            return
            ;;
        --seed-python)
            compopt -o filenames
            COMPREPLY=($(compgen -f -- "$cur"))
            return
            ;;
    esac
    local line=${COMP_LINE#*"${COMP_WORDS[0]}"}
    line="rsync${line#*sync}"
    local -a typed=("${COMP_WORDS[@]:2}")
    local COMP_POINT=$((COMP_POINT - ${#COMP_LINE} + ${#line})) COMP_LINE=$line COMP_CWORD=$((COMP_CWORD - 1))
    local -a COMP_WORDS
    COMP_WORDS=(rsync "${typed[@]}")
    local known=$(complete -p rsync 2>/dev/null)
    if [[ -z $known ]] && declare -F _completion_loader >/dev/null; then
        _completion_loader rsync
        known=$(complete -p rsync 2>/dev/null)
    fi
    if [[ $known == *" -F "* ]]; then
        known=${known##* -F }
        compopt -o nospace
        "${known%% *}" rsync "$cur" "$prev"
    else
        compopt -o filenames
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
    if [[ $cur == -* ]]; then
        COMPREPLY+=($(compgen -W "@OPTIONS@" -- "$cur"))
        [[ ${COMPREPLY-} != *= ]] || compopt -o nospace
    fi
}

complete -o bashdefault -F _sparsesync sparsesync
