"""Trainings that are done in one go, and in two parts with a checkpoint between."""

from kanlib import train_multilevel


def whole_and_resumed(make, folder, stop, **options):
    """The run over [3, 4] epochs, and the one that ended its last level at ``stop`` and went on.

    ``make`` returns a new network and its objective.
    """

    def go(file, epochs):
        return train_multilevel(
            *make(), epochs, checkpoint=folder / file, resume=True, progress=False, **options
        )

    whole = go("whole.pt", [3, 4])
    go("parts.pt", [3, stop])
    return whole, go("parts.pt", [3, 4])
