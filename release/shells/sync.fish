
# What follows "sync" is completed as what follows rsync, and by the options that are sparsesync's own.
function __sparsesync_is_sync
    set -l words (commandline -opc)
    test (count $words) -gt 1; and test "$words[2]" = sync
end

function __sparsesync_rsync
    set -l words (commandline -opc) (commandline -ct)
    complete -C"rsync "(string join ' ' -- (string escape -- $words[3..-2]) $words[-1])
end

complete -c sparsesync -n __sparsesync_is_sync -a '(__sparsesync_rsync)'
