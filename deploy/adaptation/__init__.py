"""A small head that is fitted, during one session, to the masks that a user has confirmed; torch is not needed."""
