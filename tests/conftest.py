import os

# Before torch is imported: results are compared bit by bit with those of one-thread workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
