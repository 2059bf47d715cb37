"""The Adam section of *Dive into Deep Learning* as software: one spec, four frameworks, one curve.

    from d2l_adam import torch as tab        # or mxnet, tensorflow, jax, numpy
    tab.adam, tab.yogi, tab.init_adam_states # the section's functions, in d2l's calling convention
    tab.Adam, tab.Yogi                       # optimizers of the framework's own kind (not in numpy)
    tab.save, tab.load                       # one file, with which training goes on in any tab
    tab.d2l                                  # the book's own module for that framework

    d2l_adam.train(tab="pytorch", rule="yogi")

Importing this package loads no framework; importing a tab loads that one.
"""

__version__ = "0.1.0"

#: d2l's names for the tabs; "numpy" is the reference.
TABS = ("mxnet", "pytorch", "tensorflow", "jax", "numpy")

__all__ = ["TABS", "History", "compare", "set_fused", "train"]


def __getattr__(name):
    if name in ("train", "compare", "History"):
        from d2l_adam import protocol

        return getattr(protocol, name)
    if name == "set_fused":
        from d2l_adam import fused

        return fused.set_fused
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
