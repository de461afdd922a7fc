"""Multiple choice between texts for an image, by cosine similarity.

Shapes: N questions, T texts of all questions together, E embedding width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kelip_lightning.analyses.records import Finding, Findings, Item
from kelip_lightning.evaluation.embed import require_finite
from kelip_lightning.statistics.bootstrap import Bootstrap


def choice_findings(
    name: str,
    images: Tensor,
    options: Tensor,
    num_options: Sequence[int],
    answers: Sequence[int],
    bootstrap: Bootstrap,
) -> Findings:
    """Share of the images whose right text scores highest, with its interval and what guessing gives.

    A wrong text that scores exactly as much as the right one makes the answer wrong, so that a collapsed model
    gets no score.

    Args:
        name: Of the set.
        images: (N, E) unit rows.
        options: (T, E) unit rows, the texts of the first question first.
        num_options: Texts of each question, at least 2; their sum is T.
        answers: Place of each question's right text among its own.
        bootstrap: Resampling of questions.

    Raises:
        ValueError: Numbers do not fit.
        NonFiniteEmbeddingsError: A row holds NaN or infinity.
    """
    if len(images) != len(num_options) or len(answers) != len(num_options) or sum(num_options) != len(options):
        raise ValueError(
            f"{len(images)} images, {len(answers)} answers and {sum(num_options)} options do not fit "
            f"{len(num_options)} questions with {len(options)} texts"
        )
    require_finite(images, "image")
    require_finite(options, "text")
    items: list[Item] = []
    for place, (image, texts) in enumerate(zip(images, torch.split(options, list(num_options)), strict=True)):
        scores = texts @ image
        answer = answers[place]
        others = torch.cat([scores[:answer], scores[answer + 1 :]])
        items.append(
            {
                "set": name,
                "question": place,
                "answer": answer,
                "chosen": int(scores.argmax()),
                "right": bool(scores[answer] > others.max()),
            }
        )
    interval = bootstrap.mean([bool(item["right"]) for item in items])
    chance = sum(1 / count for count in num_options) / len(num_options)
    finding = Finding(subject=name, measure="accuracy", interval=interval, count=len(items), chance=chance)
    verdict = "beats" if interval.low > chance else "does not measurably beat"
    statement = f"{name}: the choice among texts {verdict} guessing ({interval.value:.3f} against {chance:.3f})."
    return Findings(summary=[finding], items=items, statements=[statement])
