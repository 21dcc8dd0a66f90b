"""The contract of a method as a table of checks; a check raises AssertionError, mostly `MethodCheckError`.

EdgeMT's own tests run the table on METHODS, and `edgemt check` on the methods of another package; no test framework is
needed. The networks are those of `tiny_training`, the roles and the methods are real.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgemt.learning.ema import Ema
from edgemt.learning.method import Method
from edgemt.methods.supervised import Supervised
from edgemt.testing.check_description import (
    check_docstring_and_citation,
    check_frozen_dataclass,
    check_step_output,
)
from edgemt.testing.check_losses import (
    check_any_batch_composition,
    check_class_permutation_invariance,
    check_discriminator_targets,
    check_every_loss_has_gradient,
    check_named_losses_reach_one_network,
    check_targets_are_detached,
    check_unlabelled_images_have_gradient,
)
from edgemt.testing.check_players import (
    check_ema_converges,
    check_learns_easy_task,
    check_no_global_rng,
    check_only_trainable_networks_change,
    check_resume_is_exact,
)

CONFIGURATIONS = ((2, 2), (2, 4), (3, 2), (3, 4))  # axes of the images, classes


@dataclass(frozen=True)
class MethodCheck:
    """One row of the contract: description, function, the methods it applies to, and (axes, classes) to run it with."""

    description: str
    function: Callable[..., None]
    applies_to: Callable[[Method], bool] = lambda method: True
    configurations: tuple[tuple[int, int], ...] = CONFIGURATIONS
    is_prerequisite: bool = False  # if it fails, the following checks are not run

    def run(self, method: Method, *, dims: int, classes: int) -> None:
        """Raises AssertionError if the check fails, and any error of the method itself."""
        if self.configurations == ():
            self.function(method)
        else:
            self.function(method, dims=dims, classes=classes)


def _has_average(method: Method) -> bool:
    return any(isinstance(role, Ema) for role in method.roles().values())


CHECKS: tuple[MethodCheck, ...] = (
    MethodCheck("it is a frozen dataclass of plain fields", check_frozen_dataclass, configurations=()),
    MethodCheck("it has a docstring, a citation and a trained output", check_docstring_and_citation, configurations=()),
    MethodCheck(
        "a step yields names of trainable networks and losses",
        check_step_output,
        configurations=((2, 2),),
        is_prerequisite=True,
    ),
    MethodCheck("its losses are finite with any number of labelled and unlabelled rows", check_any_batch_composition),
    MethodCheck("every loss term has a non-zero gradient", check_every_loss_has_gradient),
    MethodCheck("a loss term named after a student trains no other student", check_named_losses_reach_one_network),
    MethodCheck("no gradient enters a teacher", check_targets_are_detached),
    MethodCheck(
        "unlabelled images change the gradient of the student",
        check_unlabelled_images_have_gradient,
        applies_to=lambda method: not isinstance(method, Supervised),
    ),
    MethodCheck("only trainable networks learn, frozen ones keep their bits", check_only_trainable_networks_change),
    MethodCheck("resuming equals never stopping, bit for bit", check_resume_is_exact),
    MethodCheck("every random draw uses the generator of the step", check_no_global_rng),
    MethodCheck(
        "permuting foreground classes changes no loss",
        check_class_permutation_invariance,
        configurations=((2, 4), (3, 4)),
    ),
    MethodCheck("averages converge to a constant student", check_ema_converges, applies_to=_has_average),
    MethodCheck(
        "the targets of the discriminator are right",
        check_discriminator_targets,
        applies_to=lambda method: "discriminator" in method.roles(),
    ),
    MethodCheck("it learns an easy task", check_learns_easy_task, configurations=((2, 2),)),
)
