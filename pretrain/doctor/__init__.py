"""Whether this machine, or all ranks of this allocation, can train a run: `python -m pretrain doctor`.

finding                 what a check found, and the same of many ranks in one line
here                    one process and the run that it is asked about
limits                  nothing may hang: an action and the seconds that it may take
versions, launcher, machine, network, folder, stores, beginning, slurm    checks of one process
meeting                 how ranks answer each other, with a limit
together, links         checks that ranks make together
exam                    all of them, in order
document                for people, and as JSON

Nothing is imported here: `versions` is also what speaks where a package is missing (`pretrain/__main__.py`).
"""
