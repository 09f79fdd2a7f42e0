#!/usr/bin/env bash
# sbatch, and a look at what SLURM would not tell: submit.sh [OPTIONS OF sbatch] SCRIPT [ARGUMENTS]
#
#   bash launch/slurm/submit.sh --nodes 4 --time 8:00:00 launch/slurm/pretrain.sbatch --output RUN
#
# A job whose log cannot be written fails without a word, and one that is signalled as soon as it starts never gets on.
# So the job is submitted, held; SLURM says what it has understood; and what cannot go well is cancelled, with a reason.
set -euo pipefail

fail() {
  echo "error: $*" >&2
  exit 2
}

for command in sbatch scontrol scancel; do
  command -v "$command" >/dev/null ||
    fail "there is no $command on $(hostname); expected SLURM's commands, and PATH is $PATH."
done

signal=${SBATCH_SIGNAL:-}
stays_held=""
previous=""
for argument in "$@"; do
  case $argument in
    *.sbatch) break ;;  # what follows is the script's
    --test-only) exec sbatch "$@" ;;
    -W | --wait) fail "$argument would wait for a job that is held until it has been looked at; leave it out." ;;
    -H | --hold) stays_held=yes ;;
    --signal=*) signal=${argument#*=} ;;
  esac
  [[ $previous != --signal ]] || signal=$argument
  previous=$argument
done

job=$(sbatch --parsable --hold "$@")
job=${job%%;*}
described=$(scontrol show job "$job")

refuse() {
  scancel "$job"
  fail "$* Nothing was submitted."
}

field() {
  sed -n "s/^ *$1=//p" <<<"$described" | head -n 1
}

seconds_of() { # [days-]hours:minutes:seconds; nothing for UNLIMITED
  [[ $1 =~ ^(([0-9]+)-)?([0-9]+):([0-9]+):([0-9]+)$ ]] || return 0
  echo $((((10#${BASH_REMATCH[2]:-0} * 24 + 10#${BASH_REMATCH[3]}) * 60 + 10#${BASH_REMATCH[4]}) * 60 + 10#${BASH_REMATCH[5]}))
}

log=$(field StdOut)
log=${log//4294967294/1}  # what SLURM says for the number of an array's task
folder=${log%/*}
[[ -d $folder ]] || refuse "The job's log is $log, and $folder is no folder here; expected one that every node can write to."
probe=$folder/.writable-$job
{ (: >"$probe") 2>/dev/null && rm "$probe" && [[ ! -e $log || -w $log ]]; } ||
  refuse "The job's log is $log, which cannot be written; expected a folder that every node can write to (--output=FILE)."

limit=$(sed -n 's/.* TimeLimit=\([^ ]*\).*/\1/p' <<<"$described" | head -n 1)
# What was typed, or set, holds over what stands in the script.
signal=${signal:-$(scontrol write batch_script "$job" - | sed -n 's/^#SBATCH --signal=//p' | tail -n 1)}
lead=${signal##*@}
limit_seconds=$(seconds_of "$limit")
if [[ $lead =~ ^[0-9]+$ && -n $limit_seconds ]] && ((limit_seconds <= lead)); then
  refuse "The time limit is $limit_seconds s ($limit), and the job is told to save $lead s before it, which is at once;" \
    "expected time to start, train and save: give --time more, or --signal=${signal%@*}@SECONDS less."
fi

[[ -n $stays_held ]] || scontrol release "$job"
echo "Submitted batch job $job"
