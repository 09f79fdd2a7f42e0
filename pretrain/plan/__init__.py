"""What a run will be, before it is: `python -m pretrain plan`.

planning                     puts it together
settings                     every value and where it came from
parameters, shards           what the model has, and how much of it the fullest rank holds
rows, course, rate           what rows hold; steps, epochs, FLOPs, learning rates, time
jobs, measured               a run as the models see it; a step whose time is known
checkpoints                  bytes and files
activations, memory          live bytes of every stage
collectives, exchanges       how long an exchange takes, and what is exchanged in a step by engine and stage
optimizer_step               bytes that an optimizer's step moves
scale, scaling               a step's time on many GPUs; a run's, by stage and number of GPUs
libraries, resident          and what a process on the CPU has resident besides
tables, document             for people, and as JSON
fitting                      the largest micro-batches and models that a rank's memory holds: `--fits`
passes, candidates, tuning   real passes on this machine, and the search for a micro-batch by them: `--tune`
search_tables                what both found, for people and as JSON
"""

from pretrain.plan.planning import Asked, Plan, make_plan, open_corpus
from pretrain.plan.rate import Rate, measured_rate
from pretrain.plan.rows import sample_names

__all__ = ["Asked", "Plan", "Rate", "make_plan", "measured_rate", "open_corpus", "sample_names"]
