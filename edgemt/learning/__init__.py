"""The parts that methods are made of: losses, roles and EMA, targets, perturbations, schedules."""
