"""Modules by their dotted name: show what one returns, or put something else in its place."""

from collections.abc import Callable
from contextlib import contextmanager

from torch import Tensor, nn

from .workspace import name_nearest


def find_site(model: nn.Module, site: str) -> nn.Module:
    """The submodule called `site`; ValueError, with the nearest name, if there is none."""
    names = [name for name, _ in model.named_modules() if name]
    if site not in names:
        raise ValueError(
            f"site {site!r}: {type(model).__name__} has no such module; {name_nearest(site, names)}"
        )
    return model.get_submodule(site)


@contextmanager
def hooked(model: nn.Module, site: str, function: Callable[[Tensor], Tensor | None]):
    """Show `function` what the module at `site` returns, [batch, length, d], inside the block.

    If it returns a tensor, the model goes on with that, in its own dtype. To keep the states, copy
    them: the model may change them in place. Raises ValueError for an unknown site, a module that
    returns no hidden states, and a tensor of another shape, because broadcasting would hide the
    mistake.
    """

    def hook(module, inputs, output):
        hidden, *rest = output if isinstance(output, tuple) else (output,)
        if not isinstance(hidden, Tensor):
            found = f"returns a {type(hidden).__name__}, not hidden states"
            raise ValueError(f"site {site!r} {found}: name a module inside it")
        changed = function(hidden)
        if changed is None:
            return None
        if changed.shape != hidden.shape:
            shapes = f"is {list(changed.shape)}, the hidden states are {list(hidden.shape)}"
            raise ValueError(f"site {site!r}: the replacement {shapes}")
        changed = changed.to(hidden.dtype)
        return (changed, *rest) if isinstance(output, tuple) else changed

    handle = find_site(model, site).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
