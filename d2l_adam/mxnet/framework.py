"""MXNet, imported; or what is to be done."""

from d2l_adam import imports

with (
    imports.framework(
        "mxnet",
        pip="--no-deps mxnet==1.9.1 && pip install 'graphviz<0.9' requests setuptools",
        apt="it needs two system libraries; on Debian and Ubuntu: apt-get install libgomp1 libquadmath0",
    ),
    imports.numpy_for_mxnet(),
    imports.hidden("DMLC_ROLE") as role,  # a server would start to serve before our optimizers are there
):
    import mxnet
    from mxnet import npx

npx.set_np()

__all__ = ["mxnet", "role"]
