"""`moeflux serve` over a disk that SIGUSR1 makes bad and SIGUSR2 good again.

faulty_pread.cpp is preloaded.
"""

import ctypes
import signal

from moeflux.cli import main

RATES = (3000, 1500, 20, 300)  # of 65,536 reads: short, interrupted, failed, late
faults = ctypes.CDLL(None)


def set_faults(*rates: int) -> None:
    faults.set_faults(ctypes.c_uint64(1), *rates)


signal.signal(signal.SIGUSR1, lambda *_: set_faults(*RATES))
signal.signal(signal.SIGUSR2, lambda *_: set_faults(0, 0, 0, 0))
main()
