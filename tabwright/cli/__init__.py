"""The command line."""

import time

# When the process began, for the times that are printed: what the processor has done so far, before
# any other module of the command line was read, is the start of the interpreter.
STARTED = time.perf_counter() - time.process_time()
