"""What every method must keep, as a table of promises; a check raises AssertionError, mostly `kept.Broken`.

The house's own tests hold METHODS to it, `edgemt check` holds a third party's methods to it. No test framework is
needed. The networks are the tiny ones of `small_stage`, the roles and the methods are real.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgemt.learning.method import Method
from edgemt.learning.roles import Ema
from edgemt.methods.supervised import Supervised
from edgemt.testing.check_description import (
    check_it_is_a_value,
    check_it_says_what_it_is,
    check_its_turns_are_players_and_losses,
)
from edgemt.testing.check_losses import (
    check_every_term_teaches,
    check_it_steps_with_any_rows,
    check_named_terms_stay_with_their_player,
    check_names_of_classes_do_not_matter,
    check_targets_are_detached,
    check_the_discriminator_is_told_the_truth,
    check_unlabelled_images_matter,
)
from edgemt.testing.check_players import (
    check_averages_converge,
    check_it_learns_an_easy_task,
    check_nothing_global_is_drawn,
    check_only_trainable_players_learn,
    check_resume_is_exact,
)

CONFIGURATIONS = ((2, 2), (2, 4), (3, 2), (3, 4))  # axes of the images, classes


@dataclass(frozen=True)
class MethodCheck:
    """One line of the contract: its words, its check, whom it concerns, and the corners it is tried at."""

    says: str
    check: Callable[..., None]
    concerns: Callable[[Method], bool] = lambda method: True
    corners: tuple[tuple[int, int], ...] = CONFIGURATIONS
    first: bool = False  # where it is broken the others need not be tried

    def hold(self, method: Method, *, dims: int, classes: int) -> None:
        """Raises AssertionError for a promise not kept, and whatever the method itself raises."""
        if self.corners == ():
            self.check(method)
        else:
            self.check(method, dims=dims, classes=classes)


def _averages(method: Method) -> bool:
    return any(isinstance(role, Ema) for role in method.roles().values())


CHECKS: tuple[MethodCheck, ...] = (
    MethodCheck("it is a value", check_it_is_a_value, corners=()),
    MethodCheck("it says what it is, who wrote it and what it delivers", check_it_says_what_it_is, corners=()),
    MethodCheck(
        "a step of it names who learns, and losses",
        check_its_turns_are_players_and_losses,
        corners=((2, 2),),
        first=True,
    ),
    MethodCheck("its losses are finite with any number of labelled and unlabelled rows", check_it_steps_with_any_rows),
    MethodCheck("every term teaches who pays it", check_every_term_teaches),
    MethodCheck("a peer is a target and not a pupil", check_named_terms_stay_with_their_player),
    MethodCheck("no gradient enters a teacher", check_targets_are_detached),
    MethodCheck(
        "unlabelled images teach the student",
        check_unlabelled_images_matter,
        concerns=lambda method: not isinstance(method, Supervised),
    ),
    MethodCheck("only trainable players learn, frozen ones stay bit-identical", check_only_trainable_players_learn),
    MethodCheck("resuming equals never stopping, bit for bit", check_resume_is_exact),
    MethodCheck("all chance comes from the step", check_nothing_global_is_drawn),
    MethodCheck(
        "renaming foreground classes changes nothing",
        check_names_of_classes_do_not_matter,
        corners=((2, 4), (3, 4)),
    ),
    MethodCheck("averages become a student that stands still", check_averages_converge, concerns=_averages),
    MethodCheck(
        "the discriminator is told the truth",
        check_the_discriminator_is_told_the_truth,
        concerns=lambda method: "discriminator" in method.roles(),
    ),
    MethodCheck("it learns an easy task", check_it_learns_an_easy_task, corners=((2, 2),)),
)
