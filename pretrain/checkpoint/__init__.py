"""Checkpoints that know no backend: slices of named parameters in safetensors, and a manifest.

    step-00000100/manifest.json              written last, before the folder gets its name
    step-00000100/rank-00000.safetensors     this rank's slices: fp32 master weights and moments
    latest                                   the name of the newest whole checkpoint
    best                                     where asked for, of the one that validated best

A tensor's key says what it is: `<kind>:<parameter>:<first element>`.
"""

from pretrain.checkpoint.commit import find_best, point_best, point_latest, step_name
from pretrain.checkpoint.course import (
    check_same_course,
    differences,
    is_bitwise,
    is_same_course,
    recipe_changes,
)
from pretrain.checkpoint.export import export_model
from pretrain.checkpoint.load import begin_phase, find_checkpoint, load_checkpoint, verify_checkpoint
from pretrain.checkpoint.manifest import CheckpointManifest, RunState, SavedStore
from pretrain.checkpoint.retention import Retention
from pretrain.checkpoint.save import Saver, SaveReport, save_checkpoint

__all__ = [
    "CheckpointManifest",
    "Retention",
    "RunState",
    "SaveReport",
    "SavedStore",
    "Saver",
    "begin_phase",
    "check_same_course",
    "differences",
    "export_model",
    "find_best",
    "find_checkpoint",
    "is_bitwise",
    "is_same_course",
    "load_checkpoint",
    "point_best",
    "point_latest",
    "recipe_changes",
    "save_checkpoint",
    "step_name",
    "verify_checkpoint",
]
