"""Whose a parameter is: what is trained must not share with the teacher, nor be averaged by another hand."""

from collections.abc import Iterator

from torch import nn


def refuse_parallel_wrappers(student: nn.Module) -> None:
    """Refuse a student that something else averages the gradients of.

    Args:
        student: Any module.

    Raises:
        ValueError: It or a part of it is wrapped for data parallelism.
    """
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    for module in student.modules():
        if isinstance(module, wrappers):
            raise ValueError(
                f"the student is wrapped in {type(module).__name__}, which averages the gradients "
                "of only the first of two backward passes; pass the plain module and "
                "DOT(process_group=...)"
            )


def refuse_sharing(role: str, module: nn.Module, teacher: nn.Module) -> None:
    """Refuse a module that training would move together with the teacher.

    Args:
        role: What the module is, for the error text.
        module: What is trained.
        teacher: What must stay.

    Raises:
        ValueError: They have a module, a parameter or its memory in common.

    Example:
        >>> teacher = nn.Linear(4, 3)
        >>> refuse_sharing("student", nn.Linear(4, 3), teacher)
        >>> refuse_sharing("student", teacher, teacher)
        Traceback (most recent call last):
        ...
        ValueError: student and teacher are the same object; give one a copy.deepcopy of the other
    """
    if module is teacher:
        raise ValueError(f"{role} and teacher are the same object; give one a copy.deepcopy of the other")
    theirs = dict(_members(teacher))
    for identity, name in _members(module):
        if identity in theirs:
            raise ValueError(
                f"{role} and teacher share memory ({name!r} is the teacher's {theirs[identity]!r}), "
                "so that training one would move the other; use copy.deepcopy"
            )


def _members(module: nn.Module) -> Iterator[tuple[tuple[str, int], str]]:
    for name, submodule in module.named_modules():
        yield ("module", id(submodule)), name
    for name, parameter in module.named_parameters():
        # Two parameters over one storage, as load_state_dict(assign=True) leaves them, count too.
        # Meta, lazy and sharded parameters have no address to compare.
        plain = type(parameter) is nn.Parameter
        address = parameter.untyped_storage().data_ptr() if plain else 0
        yield (("storage", address) if address else ("parameter", id(parameter))), name
