"""Programs that `paddle.jit.to_static` traced and that are not saved yet."""

from __future__ import annotations

from typing import Any, Dict, Hashable, Iterator, List, Sequence, Tuple

from paddle.framework import use_pir_api

Variables = Sequence[Hashable]


def used_inputs(traced: Any, names: Sequence[str]) -> List[str]:
    """The names of the inputs that an output depends on. `traced` is the traced `forward` of a layer."""
    outputs, inputs = (variables(values) for values in (traced.outputs, named_inputs(traced, names).values()))
    needed = set(outputs)
    for read, written in reversed(list(operators(traced.main_program))):
        if needed.intersection(written):
            needed.update(read)
    return [name for name, variable in zip(names, inputs) if variable in needed]


def named_inputs(traced: Any, names: Sequence[str]) -> Dict[str, Any]:
    """The program's inputs by name, in the order of the names."""
    by_name = {value.name: value for value in traced.inputs if hasattr(value, "name")}
    return {name: by_name[name] for name in names}


def operators(program: Any) -> Iterator[Tuple[Variables, Variables]]:
    """What each operator reads and what it writes, in execution order."""
    for operator in program.global_block().ops:
        if use_pir_api():
            yield variables(operator.operands_source()), variables(operator.results())
        else:
            yield operator.input_arg_names, operator.output_arg_names


def variables(values: Any) -> Variables:
    """What identifies each value of a program."""
    if use_pir_api():
        return [value.id for value in values if value.initialized()]  # others are optional inputs that are not given
    return [value.name for value in values]
