"""PyTorch, imported; or what is to be done."""

import sys
import warnings

from d2l_adam import imports

with imports.framework("torch", pip="torch"):
    import torch
imports.triton()
if "tensorflow" in sys.modules:
    # What TensorFlow has in the place of CUDA's library then answers PyTorch's too, and where there is no GPU it is
    # complained of, once: now, and to nobody.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.device_count()

__all__ = ["torch"]
