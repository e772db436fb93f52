"""What a program becomes once some of its arguments are known.

A parameter that every call gives the same constant is replaced by it; conditions that are then
constant decide; what nobody uses any longer is removed. One pass makes the next one possible, so
they are repeated until nothing changes.
"""

from collections.abc import Callable

from minitransformer.source.folding import (
    fold,
    narrow_isinstance,
    narrow_loops,
    propagate_attributes,
    propagate_constants,
    remove_identities,
)
from minitransformer.source.inlining import (
    forward_calls,
    inline_factories,
    inline_methods,
    unpack_dataclasses,
    unwrap_classes,
    unwrap_dataclasses,
)
from minitransformer.source.program import Program
from minitransformer.source.signatures import (
    drop_local_annotations,
    narrow_annotations,
    narrow_dataclasses,
    narrow_returns,
    specialise_parameters,
    use_config,
)
from minitransformer.source.unused import prune, remove_unused

# A pass says whether it is to be called again: some make one change at a time.
Pass = Callable[[Program], bool | None]
PASSES: tuple[Pass, ...] = (
    fold,
    remove_unused,
    propagate_constants,
    propagate_attributes,
    remove_identities,
    specialise_parameters,
    narrow_annotations,
    narrow_returns,
    narrow_dataclasses,
    narrow_isinstance,
    narrow_loops,
    inline_factories,
)
# Passes that take away what the messages of checks name.
WITHOUT_CHECKS: tuple[Pass, ...] = (
    drop_local_annotations,
    unwrap_dataclasses,
    unpack_dataclasses,
    unwrap_classes,
    forward_calls,
    inline_methods,
    use_config,
)


def simplify(program: Program) -> None:
    """Repeat all passes until nothing changes."""
    passes = [*PASSES, *(() if program.with_checks else WITHOUT_CHECKS), prune]
    content = program.content()
    clean: dict[Pass, list[object]] = {}  # what each pass found nothing to do with
    while any(clean.get(simpler) is not content for simpler in passes):
        for simpler in passes:
            if clean.get(simpler) is content:
                continue
            while simpler(program):
                program.forget()
            after = program.content()
            if after != content:
                program.forget()
                content = after
            else:
                clean[simpler] = content
