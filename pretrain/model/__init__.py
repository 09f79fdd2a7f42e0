"""The model: from a batch of packed rows to the sums of its losses.

1. `build` makes a Hugging Face encoder from a preset, a config JSON or a pretrained folder, and checks it
   against the token store (vocabulary, special ids, sequence length);
2. `encoder.PretrainingModel` runs it on packed rows and returns loss sums in fp32;
3. `attention` keeps the samples of a row apart;
4. `heads` runs the MLM head on the masked positions only, and the NSP head on the [CLS] positions;
5. `compilation` compiles the encoder layers one by one, where that is asked for;
6. `flops` counts the arithmetic of a step for model FLOPs utilisation.
"""

from pretrain.model.build import ModelOptions, build_model
from pretrain.model.encoder import ModelInput, PretrainingModel

__all__ = ["ModelInput", "ModelOptions", "PretrainingModel", "build_model"]
