"""The benchmark suite: sparsesync and its peers, on the same inputs, on real filesystems and links.

``python -m benchmarks`` measures and writes a JSON file; ``python -m benchmarks report`` makes a Markdown table and
plots of it. How it works, from the outside in::

    __main__.py    the command line: what to run, the machine, the results' file, cleaning up
    cases.py       what is measured on this machine, and cases_ssh.py to another host; cases_update.py: what has
                   changed; cases_trees.py: many files; cases_parallel.py: threads and connections
    peers.py       the peers: their programs, Debian packages, versions and command lines
    runner.py      one case: every contender once unmeasured, then in rounds of random order; each result is checked
    starter.py     one run: starts a process, and accounts for it when it has ended
    memory.py      a virtual machine's memory, kept from its host
    inputs.py      files and trees from a seed, and whether a copy is right
    places.py      new filesystems in loop files
    links.py       another host: an sshd behind a network interface of its own, at full speed or shaped
    relay.py       the shaping where the kernel has none
    many_workers.py  no benchmark, but a model: what a million tasks cost their coordinator
    goals.py       the figures to reach, judged from the results
    report.py      the results as Markdown; plots.py: as SVG

Only the public API of sparsesync is imported, and its program is run as a user would.
"""
