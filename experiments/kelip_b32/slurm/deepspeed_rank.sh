#!/usr/bin/env bash
# One process of DeepSpeed's launcher: runs its arguments with Lightning's rank variables set.
set -eu
export NODE_RANK="${CROSS_RANK:?is set by the launcher of DeepSpeed}" OMP_NUM_THREADS=1
# Lightning would take a task count of Slurm for one task per process, which such a job has not.
unset SLURM_NTASKS
exec "$@"
