"""The help of settings whose text names kernels. Kernels take time to load, so each is made when it is asked for."""

from __future__ import annotations


def augment_help() -> str:
    """Name all transformations."""
    from adam_mp.kernels.draw import TRANSFORMATIONS

    ranges = ", ".join(f"{name} ({each.meaning})" for name, each in TRANSFORMATIONS.items())
    return (
        "none, mnist, imagenet, auto (imagenet for photographs, mnist for other images, none for features), or ranges "
        f"such as 'translate=2,rotate=10,crop=0.08', a table of them in TOML; ranges are of {ranges}"
    )


def lr_help() -> str:
    """Name all shapes, and the default rates."""
    from adam_mp.kernels.update import RULES
    from adam_mp.training.settings.schedule import default_rate
    from adam_mp.training.settings.shapes import SHAPES

    shapes = ", ".join(
        f"{name}{'(' + ', '.join(shape.parameters) + ')' if shape.parameters else ''} ({shape.meaning})"
        for name, shape in SHAPES.items()
    )
    others = ", ".join(f"{rule.rate:g} for {name}" for name, rule in RULES.items() if rule.rate != RULES["sgd"].rate)
    of_means = ", ".join(f"{rule.rate_of_means:g} for {name}" for name, rule in RULES.items() if rule.rate_of_means)
    return (
        "learning rate, a number or a formula over epoch (from 0), epochs, step (updates so far), progress (0 to 1 "
        "over the run) and warmup (0 to 1 over its first 300 updates or first half), and these shapes over the "
        f"run: {shapes}; by default "
        f"'{default_rate('sgd', False)}', with another number where the optimizer has one of its own ({others}) and "
        f"for networks with batch norms that end in a global average, as residual networks do ({of_means}); a batch "
        "whose loss is far above that of guessing is trained with a part of it"
    )


def optimizer_help() -> str:
    """Name all rules."""
    from adam_mp.kernels.update import RULES

    return (
        f"{', '.join(RULES)} (adam is Kingma and Ba's, no relation to Project Adam); or a formula for the new w over "
        "w, g, lr, ... such as 'w - lr * (g + 0.0005 * w)'"
    )
