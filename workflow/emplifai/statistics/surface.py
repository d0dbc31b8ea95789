"""What the surface of a text alone tells of its label: the baseline that a language model has to beat."""

import random
from collections.abc import Sequence

LEARNT, NGRAMS = 10_000, 200_000  # at most so many texts and n-grams: 28 labels times 200,000 weights take 1 GB to fit


def rank_labels(texts: Sequence[str], labels: Sequence[str], asked: Sequence[str], seed: int = 0) -> list[list[str]]:
    """Labels of each asked text, most probable first: TF-IDF of character 1- to 4-grams, then logistic regression.

    texts, labels: what it learns from, at least two labels; of very many texts a sample, of n-grams the most frequent. C = 30
    was chosen on dev dialogues of the embedded corpus.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    order = sorted(range(len(texts)), key=lambda k: (labels[k], texts[k]))  # so that the order of rows changes no digit
    if len(order) > LEARNT:
        each = list({labels[k]: k for k in order}.values())  # a rare label stays
        order = each + [k for k in random.Random(seed).sample(order, LEARNT) if k not in each]
    vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True, max_features=NGRAMS)
    model = make_pipeline(vectors, LogisticRegression(C=30, max_iter=1000, random_state=seed))
    model.fit([texts[k] for k in order], [labels[k] for k in order])
    names = model.classes_
    return [[str(names[k]) for k in (-row).argsort(kind="stable")] for row in model.predict_proba(list(asked))]
