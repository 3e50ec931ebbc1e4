"""What every engine owes: one suite, and two toy engines that join it."""
