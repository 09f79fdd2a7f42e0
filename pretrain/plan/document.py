"""A plan as one JSON object, with the figures that the tables show."""

from dataclasses import asdict
from typing import Any

from pretrain.plan.planning import Plan, StageMemory
from pretrain.plan.scaling import Scale, ScaleRow


def as_document(plan: Plan) -> dict[str, Any]:
    """Plain data. Bytes, seconds and counts are numbers without a unit, named for what they are."""
    asked, course, rows = plan.asked, plan.course, plan.rows
    return {
        "settings": {each.key: {"value": each.value, "origin": each.origin} for each in plan.settings},
        "engine": {
            "backend": asked.backend,
            "stage": asked.config.engine.stage,
            "device": asked.device,
            "ranks": asked.ranks,
            "nodes": asked.nodes,
            **asdict(plan.cut),
        },
        "parameters": {
            "all": plan.parameters.numel,
            "trained": plan.parameters.trained,
            "frozen": plan.parameters.frozen,
            "parts": [asdict(each) for each in plan.parameters.parts],
        },
        "rows": {
            "seq_len": rows.seq_len,
            "samples_per_row": rows.samples_per_row,
            "tokens_per_row": rows.tokens_per_row,
            "masked_per_row": rows.masked_per_row,
            "padding_share": rows.padding_share,
            "masked_share": rows.masked_share,
            "stores": [asdict(each) for each in rows.stores],
        },
        "course": {
            "steps": course.steps,
            "ended_by": course.ended_by,
            **{name: course.total(name) for name in ("rows", "samples", "tokens", "masked", "flops")},
            "epochs": list(course.epochs),
            "batches": [asdict(each) for each in course.batches],
        },
        "learning_rate": [asdict(each) for each in plan.rates],
        "time": {
            "rate": None if plan.rate is None else asdict(plan.rate),
            "seconds": course.seconds,
        },
        "scale": None if plan.scale is None else _scale(plan.scale),
        "checkpoints": asdict(plan.checkpoints) | {"disk_bytes": plan.checkpoints.disk_bytes},
        "memory": {
            "limit_bytes": asked.memory_bytes,
            "kind": "resident bytes of a process" if asked.device == "cpu" else "bytes allocated by torch",
            "stages": [_stage(each) for each in plan.memory],
        },
    }


def _scale(scale: Scale) -> dict[str, Any]:
    return {
        "assumptions": [asdict(each) for each in scale.asked.assumptions],
        "gpu": {**asdict(scale.pace), "peak_flops": scale.asked.peak_flops},
        "stages": [_scale_row(row) for row in scale.stages],
        "worlds": [_scale_row(row) for row in scale.worlds],
    }


def _scale_row(row: ScaleRow) -> dict[str, Any]:
    return {
        **asdict(row),
        "step": {**asdict(row.step), "exposed": row.step.exposed, "seconds": row.step.seconds},
        "save": {**asdict(row.save), "exposed": row.save.exposed, "share": row.save.share},
    }


def _stage(memory: StageMemory) -> dict[str, Any]:
    resident = {} if memory.resident is None else asdict(memory.resident)
    return {
        "stage": memory.stage,
        "chosen": memory.is_chosen,
        "fits": memory.fits,
        **asdict(memory.live),
        **resident,
        "peak_bytes": memory.peak,
    }
