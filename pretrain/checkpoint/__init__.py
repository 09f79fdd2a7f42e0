"""Checkpoints that know no backend: slices of named parameters in safetensors, and a manifest.

    step-00000100/manifest.json              written last, before the folder gets its name
    step-00000100/rank-00000.safetensors     this rank's slices: fp32 master weights and moments
    latest                                   the name of the newest whole checkpoint
    best                                     where asked for, of the one that validated best

A tensor's key says what it is: `<kind>:<parameter>:<first element>`. README.md beside this describes the format to the
byte.
"""

from pretrain.checkpoint.commit import point_best, point_latest, set_aside_beyond
from pretrain.checkpoint.course import (
    check_same_course,
    differences,
    is_same_course,
    recipe_changes,
)
from pretrain.checkpoint.export import export_model
from pretrain.checkpoint.find import (
    expect_checkpoint,
    find_best,
    find_checkpoint,
    saved_checkpoints,
    step_name,
    step_of,
)
from pretrain.checkpoint.load import MomentsPolicy, begin_phase, load_checkpoint
from pretrain.checkpoint.manifest import CheckpointManifest, RunState, SavedStore
from pretrain.checkpoint.retention import Retention
from pretrain.checkpoint.save import Saver, SaveReport, save_checkpoint
from pretrain.checkpoint.verify import read_verified, verify_checkpoint

__all__ = [
    "CheckpointManifest",
    "MomentsPolicy",
    "Retention",
    "RunState",
    "SaveReport",
    "SavedStore",
    "Saver",
    "begin_phase",
    "check_same_course",
    "differences",
    "expect_checkpoint",
    "export_model",
    "find_best",
    "find_checkpoint",
    "is_same_course",
    "load_checkpoint",
    "point_best",
    "point_latest",
    "read_verified",
    "recipe_changes",
    "save_checkpoint",
    "saved_checkpoints",
    "set_aside_beyond",
    "step_name",
    "step_of",
    "verify_checkpoint",
]
