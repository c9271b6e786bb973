
# What follows "sync" is completed as what follows rsync, and by the options that are sparsesync's own.

# The command is the first word; without an argument, whether there is none yet.
function __sparsesync_is
    set -l words (commandline -opc)
    test "$words[2]" = "$argv[1]"
end

function __sparsesync_rsync
    set -l words (commandline -opc) (commandline -ct)
    complete -C"rsync "(string join ' ' -- (string escape -- $words[3..-2]) $words[-1])
end

complete -c sparsesync -n '__sparsesync_is sync' -a '(__sparsesync_rsync)'
