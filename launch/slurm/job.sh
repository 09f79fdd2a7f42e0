# shellcheck shell=bash
# What the batch scripts beside this file share; they source it, from the root of the repository.
#
# A job that has saved (exit code 75) queues itself again, unless MAX_STARTS starts in a row have begun at the same
# state and left it there: such a job is not getting on. The count lies where the job's output does, so that every
# start is counted, one that SLURM itself has caused among them.

readonly SAVED_START_AGAIN=75
readonly MAX_STARTS=${MAX_STARTS:-3}
# The number of an array alone would name all its tasks.
job_id=${SLURM_ARRAY_TASK_ID:+${SLURM_ARRAY_JOB_ID:-}_$SLURM_ARRAY_TASK_ID}
readonly JOB_ID=${job_id:-${SLURM_JOB_ID:-}}
readonly PORT=${MASTER_PORT:-}  # each training of a job looks for one of its own where none was given

told_to_end=""
starts=0
starts_file=""

fail() {
  echo "error: $*" >&2
  exit 2
}

# Once, at the beginning.
begin_job() {
  command -v scontrol >/dev/null ||
    fail "there is no scontrol on $(hostname), with which this job would queue itself again; expected SLURM's" \
      "commands on every node, and PATH is $PATH."
  [[ $MAX_STARTS =~ ^[1-9][0-9]*$ ]] || fail "MAX_STARTS is '$MAX_STARTS'; expected a number from 1 on."
  # A cancelled or preempted job, and one at its time limit, must not queue itself again: SLURM ends it.
  trap 'told_to_end=yes' TERM
}

# The value of an option: option_value --output ARGUMENTS...
option_value() {
  local name=$1 value="" previous=""
  shift
  for argument in "$@"; do
    [[ $previous == "$name" ]] && value=$argument
    [[ $argument == "$name="* ]] && value=${argument#"$name="}
    previous=$argument
  done
  echo "$value"
}

# Where a training with these arguments lies.
run_of() {
  local run recipe
  run=$(option_value --output "$@")
  recipe=$(option_value --recipe "$@")
  recipe=${recipe##*/}
  recipe=${recipe%.*}
  echo "${run:-runs/${recipe:-demo}}"
}

# The newest checkpoint of a run.
latest_of() {
  local latest=none
  [[ ! -f $1/checkpoints/latest ]] || read -r latest <"$1/checkpoints/latest" || true
  echo "$latest"
}

# count_start FILE STATE: ends the job where it would begin once too often at this state.
count_start() {
  local job="" count="" state=""
  starts=1 starts_file=$1
  [[ ! -f $1 ]] || read -r job count state <"$1" || true
  [[ $job != "$JOB_ID" || $state != "$2" || ! $count =~ ^[0-9]+$ ]] || starts=$((count + 1))
  { mkdir -p "$(dirname "$1")" && echo "$JOB_ID $starts $2" >"$1.new" && mv "$1.new" "$1"; } ||
    fail "$1 cannot be written on $(hostname); expected an --output in a folder that every node can write to."
  ((starts <= MAX_STARTS)) || not_getting_on "$2"
}

not_getting_on() {
  echo "error: job $JOB_ID has started $MAX_STARTS times without saving anything new (expected: a newer state" \
    "than '$1' by each start; actual: none); it is not queued again. If its time limit, $(job_field TimeLimit), is" \
    "shorter than starting and saving take, give --time more; else see above why it ended." >&2
  exit 1
}

# end_job CODE STATE-AT-START STATE-NOW: ends the job with this code, and queues it again where that is of use.
end_job() {
  if [[ -n $told_to_end ]]; then
    if [[ $(job_field Reason) == TimeLimit && $2 == "$3" ]]; then
      echo "error: job $JOB_ID came to its time limit, $(job_field TimeLimit), before it had saved (expected: a" \
        "newer state than '$2'; actual: none); give --time more, or let it be signalled earlier" \
        "(--signal=...USR1@SECONDS)." >&2
    fi
  elif (($1 == SAVED_START_AGAIN)); then
    [[ $2 != "$3" ]] || ((starts < MAX_STARTS)) || not_getting_on "$2"
    echo "Job $JOB_ID has saved its state and is queued again."
    queue_again
  fi
  (($1 != 0)) || rm -f "$starts_file"
  exit "$1"
}

queue_again() {
  local said failed=0
  # Where it is accepted, SLURM ends this script and scontrol too.
  said=$(scontrol requeue "$JOB_ID" 2>&1) || failed=$?
  if ((failed > 0 && failed < 128)) && [[ -z $told_to_end ]]; then
    echo "error: job $JOB_ID has saved its state, but cannot be queued again (expected: scontrol requeue accepts it;" \
      "actual: ${said//$'\n'/ }); submit the same command once more to go on." >&2
  fi
}

# One field of what SLURM says of this job, "?" where it says nothing: job_field TimeLimit
job_field() {
  local said
  said=$(scontrol show job -o "$JOB_ID" 2>/dev/null) || true
  if [[ $said =~ (^| )"$1"=([^ ]*) ]]; then
    echo "${BASH_REMATCH[2]}"
  else
    echo "?"
  fi
}

# The first port that nobody listens on, from one that depends on the job: jobs which share a node start apart.
free_port() {
  local port=$((20000 + SLURM_JOB_ID % 12000))
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    port=$((port + 1))
  done
  echo "$port"
}

# One training on all nodes, from its start to its end; its exit code: train ARGUMENTS-OF-PRETRAIN...
train() {
  # The node that this script runs on is the first.
  export MASTER_ADDR=$SLURMD_NODENAME
  export MASTER_PORT=${PORT:-$(free_port)}
  echo "Job $JOB_ID (${SLURM_JOB_NAME:-}), start ${SLURM_RESTART_COUNT:-0}: $SLURM_NNODES node(s)," \
    "meeting at $MASTER_ADDR:$MASTER_PORT"
  local image=()
  # Where SLURM has the plugin pyxis it makes the container; elsewhere node.sh does, by Apptainer.
  if [[ -n ${CONTAINER:-} ]] && srun --help 2>/dev/null | grep -q -e --container-image; then
    image=(--container-image="$CONTAINER" --container-workdir="$PWD")
    image+=(--container-mounts="$PWD:$PWD${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}")
    export MADE_BY_SLURM=yes
  fi
  # The one task of a node holds all its ranks, so it is bound to no core. The scripts ask for no number of tasks:
  # SLURM would give a job of `--nodes 1-2` no more nodes than tasks. A task that has ended gives the others a while
  # to say why, or to finish saving.
  srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpu-bind=none \
    ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} --kill-on-bad-exit=0 --wait=120 \
    ${image[@]+"${image[@]}"} bash launch/slurm/node.sh "$@"
}
