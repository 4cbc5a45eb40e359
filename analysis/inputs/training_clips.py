"""What `skipsim train --clips` names: procedural clips, the videos of a data set, or a video of the user's."""

from __future__ import annotations

from pathlib import Path

from skipsim.analysis.inputs.clips import DATASETS, FORMS, PROCEDURAL, dataset_part, dataset_videos, is_dataset
from skipsim.errors import InputError, nearest
from skipsim.traces.training.training_videos import TrainingVideos, Video, held_out
from skipsim.traces.unlabelled_video import unlabelled_video


def training_clips(name: str, score_on: str | None = None) -> str | TrainingVideos:
    """Return what `train` takes as clips.

    Args:
        name: a kind of procedural clips ("pose", "detection"), videos of a data set (see FORMS), or a video file, a
            folder of images, a .npy array. Of videos the last sixth is held out for validation.
        score_on: videos for the final score, named likewise. None: the test part of the same data set, or where it has
            none, what is held out.

    Raises:
        InputError: an unknown name, videos that cannot be read, or test videos to be trained on.
    """
    kind, colon, _ = name.partition(":")
    if kind in PROCEDURAL and not Path(name).exists():
        if colon or score_on is not None:
            wrong = name if colon else f"{name} scored on {score_on}"
            raise InputError(f"clips {wrong!r}: to train on procedural clips, name their kind alone, {kind!r}")
        return name
    if not is_dataset(name) and not Path(name).exists():
        forms = f"{nearest(kind, (*PROCEDURAL, *DATASETS))}; or a video file or folder of pictures"
        raise InputError(f"clips {name!r}: no such file, and no clips {kind!r} to train on; {forms}")
    part = dataset_part(name) if is_dataset(name) else None
    if part == "test":
        raise InputError(f"clips {name!r}: test videos are for scoring; train on {FORMS[kind].replace('|test', '')}")
    train, validation = held_out(_videos(name))
    if score_on is not None:
        test = _videos(score_on)
    else:
        test = validation if part is None else tuple(dataset_videos(name, "test"))
    return TrainingVideos(name, train, validation, test)


def _videos(name: str) -> tuple[Video, ...]:
    return tuple(dataset_videos(name)) if is_dataset(name) else (unlabelled_video(name),)
