"""Modules by their dotted name: show what one returns, or put something else in its place."""

from collections.abc import Callable
from contextlib import contextmanager

from torch import Tensor, nn

from .workspace import name_nearest


def find_site(model: nn.Module, site: str) -> nn.Module:
    """The submodule called `site`; a wrong name is refused with the nearest right one."""
    names = [name for name, _ in model.named_modules() if name]
    if site not in names:
        raise ValueError(
            f"site {site!r}: {type(model).__name__} has no such module; {name_nearest(site, names)}"
        )
    return model.get_submodule(site)


@contextmanager
def hooked(model: nn.Module, site: str, function: Callable[[Tensor], Tensor | None]):
    """Show `function` what the module at `site` returns while the block runs.

    `function` takes hidden states [batch, length, d]. If it returns a tensor, the model goes on
    with that; if it returns None, nothing changes. The hook is removed whatever happens.
    A tensor of another shape is refused: broadcasting would hide the mistake. Whoever keeps the
    tensor must copy it, because the model may go on to change it in place.
    """

    def hook(module, inputs, output):
        hidden, *rest = output if isinstance(output, tuple) else (output,)
        if not isinstance(hidden, Tensor):
            raise ValueError(
                f"site {site!r} returns a {type(hidden).__name__}, not hidden states: "
                "name a module inside it"
            )
        changed = function(hidden)
        if changed is None:
            return None
        if changed.shape != hidden.shape:
            raise ValueError(
                f"site {site!r}: the replacement is {list(changed.shape)}, "
                f"the hidden states are {list(hidden.shape)}"
            )
        return (changed, *rest) if isinstance(output, tuple) else changed

    handle = find_site(model, site).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
