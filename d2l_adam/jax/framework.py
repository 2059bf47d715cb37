"""JAX, imported; or what is to be done."""

from d2l_adam import imports

with imports.framework("jax", pip="jax"):
    import jax
    import jax.numpy as jnp

__all__ = ["jax", "jnp"]
