"""How many bytes an optimizer's step reads and writes, at least, for each float32 weight.

Every rule reads the gradient for the global norm; then
- AdamW and SGD walk once: gradient, weight and moments are read, weight and moments written;
- LAMB walks twice, as norms of weights and updates lie between: the first walk writes the update in the weight's place,
  the second reads update and weight and writes the weight;
- Adafactor reads gradient and weight for its means, makes the update of the gradient, reads it for its own mean, and
  walks as LAMB's second.

Copies of the weights in half precision, which engines keep, are left out.
"""

from pretrain.optim import AdafactorOptions, LambOptions, Rule

_FP32 = 4
_NORM = 1


def optimizer_bytes(rule: Rule) -> int:
    """Of a weight. By the table above."""
    if isinstance(rule, AdafactorOptions):
        return _FP32 * (_NORM + 2 + 2 + 1 + 3)
    moments = 2 * len(rule.moment_kinds)
    if isinstance(rule, LambOptions):
        return _FP32 * (_NORM + 3 + moments + 3)
    return _FP32 * (_NORM + 3 + moments)
