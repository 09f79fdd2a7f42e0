#!/usr/bin/env bash
# Starts this node's ranks, as srun's one task on it: node.sh ARGUMENTS-OF-PRETRAIN...
#
# In place of torchrun, which ends with 1 whatever its workers end with: here 75 (saved, start again) gets through.
# Needs MASTER_ADDR and MASTER_PORT; exits as the first rank that failed, else with 0. What a rank says by its exit code
# (75: start again) goes before the end of one that was killed and said nothing.
set -euo pipefail

readonly GRACE_SECONDS=60
readonly KILLED=128  # and more: by a signal
ranks_per_node=${RANKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
python=("${PYTHON:-.venv/bin/python}")
if [[ -n ${CONTAINER:-} ]]; then
  python=("${PYTHON:-python3}")
  if [[ -z ${MADE_BY_SLURM:-} ]]; then
    # --nv: the driver and the devices of NVIDIA, where there are any.
    python=(apptainer exec --nv --bind "$PWD${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}" --pwd "$PWD" "$CONTAINER" "${python[@]}")
  fi
fi
export WORLD_SIZE=$((SLURM_NNODES * ranks_per_node)) LOCAL_WORLD_SIZE=$ranks_per_node

running=()
tell_ranks() {
  ((${#running[@]} == 0)) || kill -s "$1" "${running[@]}" 2>/dev/null || true
}
# SLURM may signal this shell alone or every process of the task; a rank counts a signal that comes twice once.
trap 'tell_ranks USR1' USR1
trap 'tell_ranks TERM' TERM
trap 'tell_ranks INT' INT

for ((local_rank = 0; local_rank < ranks_per_node; local_rank++)); do
  RANK=$((SLURM_NODEID * ranks_per_node + local_rank)) LOCAL_RANK=$local_rank \
    "${python[@]}" launch/pretrain.py "$@" &
  running+=("$!")
done

# Polled, because `wait -n` cannot tell a rank's end from a signal in older shells.
code=0
deadline=0
while ((${#running[@]} > 0)); do
  { sleep 1; } 2>/dev/null || true  # a signal ends it, which the shell would say
  still=()
  for pid in "${running[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      still+=("$pid")
      continue
    fi
    status=0
    wait "$pid" || status=$?
    ((status == 0 || code != 0)) || deadline=$((SECONDS + GRACE_SECONDS))
    if ((status != 0 && (code == 0 || (code >= KILLED && status < KILLED)))); then
      code=$status
    fi
  done
  running=(${still[@]+"${still[@]}"})
  # The peers of a rank that failed may wait for it for ever.
  if ((code != 0 && SECONDS >= deadline)); then
    tell_ranks KILL
  fi
done
exit "$code"
