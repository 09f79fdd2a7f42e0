# shellcheck shell=bash
# What the batch scripts beside this file share; they source it, from the root of the repository.
#
# A job that has saved (exit code 75) queues itself again, unless MAX_STARTS starts in a row have begun at the same
# state and left it there: such a job is not getting on. The count lies where the job's output does, so that every
# start is counted, one that SLURM itself has caused among them.
#
# What the job waits for runs in the background: the shell obeys a signal at once, and hands it on.

readonly SAVED_START_AGAIN=75 USAGE=2
readonly MAX_STARTS=${MAX_STARTS:-3}
# The number of an array alone would name all its tasks.
job_id=${SLURM_ARRAY_TASK_ID:+${SLURM_ARRAY_JOB_ID:-}_$SLURM_ARRAY_TASK_ID}
readonly JOB_ID=${job_id:-${SLURM_JOB_ID:-}}
readonly PORT=${MASTER_PORT:-}  # each training of a job looks for one of its own where none was given

told_to_end=""
running=""     # what is waited for
goes_on=""     # not empty: an earlier start of this job has saved something
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
  local name
  for name in MAX_STARTS RANKS_PER_NODE; do
    [[ ${!name:-1} =~ ^[1-9][0-9]*$ ]] || fail "$name is '${!name}'; expected a number from 1 on."
  done
  local python=${PYTHON:-.venv/bin/python}
  [[ -n ${CONTAINER:-} ]] || command -v "$python" >/dev/null ||
    fail "there is no interpreter $python on $(hostname) (PYTHON is '${PYTHON:-}'); expected one that every node has:" \
      "make environment makes .venv/bin/python, or set PYTHON to another."
  # SLURM signals the tasks alone, this shell alone (--signal=B:...), or both; a rank counts one that comes twice once.
  trap 'tell_running USR1' USR1
  # A cancelled or preempted job, and one at its time limit, must not queue itself again: SLURM ends it.
  trap 'told_to_end=yes' TERM
}

tell_running() {
  [[ -z $running ]] || kill -s "$1" "$running" 2>/dev/null || true
}

# A command to its end, whatever signals come in between; its exit code.
wait_for() {
  local code=0
  "$@" &
  running=$!
  wait "$running" || code=$?
  while kill -0 "$running" 2>/dev/null; do
    wait "$running" || true
  done
  # A signal ends `wait` too; the shell remembers how the command has ended.
  ((code <= 128)) || { code=0; wait "$running" || code=$?; }
  running=""
  return "$code"
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
  run=${run%/}
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
  local job="" count="" state="" first=""
  starts=1 starts_file=$1
  [[ ! -f $1 ]] || read -r job count state first <"$1" || true
  [[ $job == "$JOB_ID" && $count =~ ^[0-9]+$ && -n $first ]] || { count=0 first=$2 state=$2; }
  [[ $state != "$2" ]] || starts=$((count + 1))
  [[ $first == "$2" ]] || goes_on=yes
  { mkdir -p "$(dirname "$1")" && echo "$JOB_ID $starts $2 $first" >"$1.new" && mv "$1.new" "$1"; } ||
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
  # A start that was refused has begun nothing.
  if (($1 == 0 || $1 == USAGE)); then
    rm -f "$starts_file"
    rmdir "$(dirname "$starts_file")" 2>/dev/null || true
  fi
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
  while is_taken "$port"; do
    port=$((port + 1))
  done
  echo "$port"
}

is_taken() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# One training on all nodes, from its start to its end; its exit code: train ARGUMENTS-OF-PRETRAIN...
train() {
  # The node that this script runs on is the first.
  export MASTER_ADDR=$SLURMD_NODENAME
  if [[ -n $PORT ]] && is_taken "$PORT"; then
    echo "error: MASTER_PORT is $PORT, where another process of $(hostname) listens; expected a port that is free:" \
      "leave MASTER_PORT out, and the job looks for one." >&2
    return "$USAGE"
  fi
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
  # What the job's first start was to begin with is behind it when something has been saved since.
  local resume=()
  [[ -z $goes_on ]] || resume=(--resume auto)
  # The one task of a node holds all its ranks, so it is bound to no core. The scripts ask for no number of tasks:
  # SLURM would give a job of `--nodes 1-2` no more nodes than tasks. A task that has ended gives the others a while
  # to say why, or to finish saving.
  wait_for srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpu-bind=none \
    ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} --kill-on-bad-exit=0 --wait=120 \
    ${image[@]+"${image[@]}"} bash launch/slurm/node.sh "$@" ${resume[@]+"${resume[@]}"}
}
