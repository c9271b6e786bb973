# What follows "sync" is completed as what follows rsync, and by the options that are sparsesync's own.
_sparsesync_any() {
  if [[ $words[2] != sync ]] || (( CURRENT < 3 )); then
    _shtab_sparsesync "$@"
    return
  fi
  if compset -P 1 '--seed-holes='; then
    compadd -- @HOLES@
    return
  fi
  local service=rsync status_=1
  local -a ours=(
@DESCRIBED@
  )
  words=(rsync "${(@)words[3,-1]}")
  (( CURRENT -= 1 ))
  _describe -o 'option of sparsesync' ours && status_=0
  _rsync "$@" && status_=0
  return status_
}

typeset -A opt_args

if [[ $zsh_eval_context[-1] == eval ]]; then
  compdef _sparsesync_any -N sparsesync
else
  _sparsesync_any "$@"
fi
