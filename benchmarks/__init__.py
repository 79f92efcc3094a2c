"""The benchmark of kanlib: ratios measured side by side, against peers and against limits.

    make bench                               # everything; peers that are not installed are left out
    python -m benchmarks --quick             # every measurement once, tiny, in this environment
    python -m benchmarks --sections pinn     # some of it, printed and not recorded

A figure is a ratio of times of two functions that take turns in one process, so that a
disturbance of the machine hits both. Medians are given with the 10 % and 90 % quantiles over the
rounds. Seconds are recorded too, but say little on another machine.
"""
