"""Probes of features, which tell how well these separate classes: nearest neighbours, and a linear
classifier."""

from typing import Any

import numpy as np

from convnext.errors import InputError

# DINO's (https://arxiv.org/abs/2104.14294, appendix on k-NN): 20 neighbours work well throughout.
NEIGHBOURS = 20
TEMPERATURE = 0.07
INVERSE_PENALTY = 0.316  # C of the linear probe of CLIP (openai/CLIP, README), unit variance here
PROBES = ("knn", "linear")


def probabilities(
    probe: str, train: dict[str, Any], images: np.ndarray, num_classes: int
) -> np.ndarray:
    """Returns class probabilities, float64 [N, num_classes], of features [N, C]. train: features
    and labels to learn from, {features, label}.

    "knn": the votes of the nearest by cosine, each with the weight exp(similarity / TEMPERATURE).
    "linear": a logistic regression on features of unit variance. Raises InputError for another
    probe.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    match probe:
        case "knn":
            classifier = KNeighborsClassifier(
                min(NEIGHBOURS, len(train["label"])),
                metric="cosine",
                algorithm="brute",
                weights=lambda distances: np.exp((1 - distances) / TEMPERATURE),
            )
        case "linear":
            classifier = make_pipeline(
                StandardScaler(), LogisticRegression(C=INVERSE_PENALTY, max_iter=1000)
            )
        case _:
            raise InputError(f"probe is {probe!r}", ", ".join(PROBES))
    classifier.fit(train["features"], train["label"])
    # The classifier knows only the classes that occur in train.
    scores = np.zeros((len(images), num_classes))
    scores[:, classifier.classes_] = classifier.predict_proba(images)
    return scores
