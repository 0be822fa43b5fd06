"""Which rows train, which rows validate: stratified, grouped, by time, by a stable hash.

Nothing here reads a table. A split is made of row numbers and depends only on its arguments, so
the same call gives the same rows on every machine. A splitter of scikit-learn, or a list of splits,
decides in place of these rules where a user gives one (`splits_of`).
"""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    IntArray = NDArray[np.int64]
    Splits = list[tuple[IntArray, IntArray]]


def split_rows(
    n_rows: int,
    *,
    fraction: float,
    codes: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    time: ArrayLike | None = None,
    random_state: int,
) -> tuple[IntArray, IntArray]:
    """Split rows into training and validation rows.

    Every class of `codes` keeps at least one training row. Groups never straddle the split. With
    `time`, validation rows are strictly later than every training row.

    `n_rows`: number of rows, at least 2.
    `fraction`: Wanted share of validation rows, in (0, 1). What classes, groups and ties in time
        allow can differ from it.
    `codes`: (n_rows,), int. Class of each row. Validation rows then hold the classes in the
        proportions of all rows. A class with a single row stays in training.
    `groups`: (n_rows,). Group of each row, numbers or strings without missing values. Not together
        with `time`.
    `time`: (n_rows,). Numbers or datetimes without missing values. Rows of equal time stay on one
        side. Where a class first appears after the wanted boundary, the boundary moves behind it.
    `random_state`: seed; not used with `time`.
    Returns train, validation: Sorted row numbers; together they hold every row once. `validation`
        is empty only without `groups` and `time`, where every class has a single row.
    Raises `ValueError`: fewer than 2 rows; `fraction` outside (0, 1); arrays of another length or
        with missing values; groups or times from which no validation rows can be taken.
    """
    if n_rows < 2:
        raise ValueError(
            "at least 2 rows are needed, one to train and one to validate; "
            f"got n_samples={n_rows}; give more rows"
        )
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must be above 0 and below 1; got {fraction!r}")
    if groups is not None and time is not None:
        raise ValueError("groups and time cannot both decide the split; give one of them")
    class_of = _dense_codes(codes, n_rows, "codes")
    n_wanted = min(max(round(fraction * n_rows), 1), n_rows - 1)
    if time is not None:
        chosen = _latest(_checked_time(time, n_rows), class_of, n_wanted)
    elif groups is not None:
        group_of = _dense_codes(groups, n_rows, "groups")
        chosen = _some_groups(group_of, class_of, fraction, np.random.default_rng(random_state))
    else:
        chosen = _stratified(class_of, n_wanted, np.random.default_rng(random_state))
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def fold_rows(
    n_rows: int,
    n_folds: int,
    codes: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    *,
    random_state: int,
) -> IntArray:
    """Assign every row to one of `n_folds` folds of nearly equal size, for out-of-fold work.

    `n_rows`: number of rows.
    `n_folds`: number of folds, from 2 to `n_rows` (with `groups`: to the number of groups).
    `codes`: (n_rows,), int. Class of each row; each class is spread evenly. A class of two or more
        rows is never wholly in one fold, unless it lies in a single group.
    `groups`: (n_rows,); group of each row; groups never straddle folds.
    `random_state`: seed.
    Returns: (n_rows,), int64. The fold of each row, 0 to `n_folds` - 1. No fold is empty.
    Raises `ValueError`: `n_folds` out of range; arrays of another length or with missing values.
    """
    class_of = _dense_codes(codes, n_rows, "codes")
    group_of = None if groups is None else _dense_codes(groups, n_rows, "groups")
    n_units = n_rows if group_of is None else int(group_of.max()) + 1
    if not 2 <= n_folds <= n_units:
        unit = "rows" if group_of is None else "groups"
        raise ValueError(f"n_folds must be from 2 to the {n_units} {unit}; got {n_folds!r}")
    rng = np.random.default_rng(random_state)
    if group_of is None:
        # Classes one after the other, row by row in turn: every fold's share of every class, and
        # its size, is off by one row at most.
        ordered = rng.permutation(n_rows)
        ordered = ordered[np.argsort(class_of[ordered], kind="stable")]
        folds = np.empty(n_rows, dtype=np.int64)
        folds[ordered] = np.arange(n_rows) % n_folds
        return folds
    return _fold_of_group(group_of, class_of, n_folds, rng)[group_of]


def forward_folds(time: ArrayLike, n_folds: int) -> list[tuple[IntArray, IntArray]]:
    """Folds for rows that are ordered by time: each is tested by a model of earlier rows only.

    Rows are cut into `n_folds` + 1 blocks of nearly equal size; fold k trains on the first k
    blocks and tests on the next. Rows of equal time stay in one block.

    `time`: (n_rows,); numbers or datetimes without missing values.
    `n_folds`: at least 1, and fewer than the distinct times.
    Returns: sorted row numbers, int64; every test row is strictly later than every training row.
    Raises `ValueError`: too few distinct times; missing values; an array that is not of numbers or
        datetimes.
    """
    array = np.asarray(time)
    order = _checked_time(array, len(array))
    values, when = np.unique(order, return_inverse=True)
    if not 1 <= n_folds < len(values):
        raise ValueError(
            f"n_folds must be from 1 to {len(values) - 1}, one fewer than the distinct times; "
            f"got {n_folds!r}"
        )
    n_until = np.cumsum(np.bincount(when))
    ideal = np.arange(1, n_folds + 1) * len(order) / (n_folds + 1)
    # The last time of each block: the nearest to equal sizes that leaves every block a time.
    ends: list[int] = []
    for k, size in enumerate(ideal):
        low = ends[-1] + 1 if ends else 0
        high = len(values) - (n_folds - k)
        candidates = np.arange(low, high)
        ends.append(int(candidates[np.abs(n_until[candidates] - size).argmin()]))
    ends.append(len(values) - 1)
    return [
        (np.flatnonzero(when <= last), np.flatnonzero((when > last) & (when <= upto)))
        for last, upto in itertools.pairwise(ends)
    ]


def splits_of(
    validation: object,
    n_rows: int,
    *,
    X: object = None,
    y: ArrayLike | None = None,
    groups: ArrayLike | None = None,
) -> Splits:
    """The splits of a scikit-learn splitter, or of a list of (train, test) row numbers, checked.

    `validation`: anything with a method `split(X, y, groups)`, such as `GroupKFold()`,
        `TimeSeriesSplit()` or `PredefinedSplit(test_fold)`; or the pairs themselves.
    `X`: handed to the splitter; None: a column of zeros.
    `y`, `groups`: (n_rows,); handed to the splitter.
    Returns: sorted row numbers, int64, at least one of each; rows may be in neither part.
    Raises `ValueError` if it is neither, the splitter cannot split these rows, or a split leaves a
        part empty, names a row that is not there, or names a row twice.
    """
    kind = type(validation).__name__
    split = getattr(validation, "split", None)
    if isinstance(validation, type):
        raise ValueError(
            "validation must be a splitter, not its class; got the class "
            f"{validation.__name__}; write {validation.__name__}(...)"
        )
    if isinstance(validation, str) or not (callable(split) or hasattr(validation, "__iter__")):
        raise ValueError(
            "validation must be a splitter with a method split(X, y, groups), such as "
            f"GroupKFold(), or a list of (train, test) row numbers; got {validation!r}; for a "
            "share of the rows give validation_fraction"
        )
    test_fold = getattr(validation, "test_fold", None)
    if isinstance(test_fold, np.ndarray) and len(test_fold) != n_rows:
        raise ValueError(
            f"{kind} must have a fold for each of {n_rows:,} rows; got {len(test_fold):,}; -1 "
            "keeps a row out of every test"
        )
    if callable(split):
        try:
            pairs = list(split(np.zeros((n_rows, 1)) if X is None else X, y, groups))
        # A splitter is a user's code, and may fail in any way.
        except Exception as error:
            what = (
                str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            )
            raise ValueError(f"{kind} cannot split these {n_rows:,} rows: {what}") from error
    else:
        pairs = list(cast("Any", validation))
    if not pairs:
        raise ValueError(f"validation must give at least one split; got none from {kind}")
    return [_checked_split(pair, number, n_rows) for number, pair in enumerate(pairs, 1)]


def splits_within(splits: Splits, index: IntArray) -> Splits:
    """Splits of all rows as splits of some of them: those that leave rows in both parts.

    `splits`: as `splits_of` gives them.
    `index`: the rows to keep, sorted; row numbers of the result are places in it.
    """
    inner = []
    for train, test in splits:
        parts = [np.flatnonzero(np.isin(index, part)) for part in (train, test)]
        if all(len(part) for part in parts):
            inner.append((parts[0], parts[1]))
    return inner


def are_forward(splits: Splits) -> bool:
    """Whether the rows that test stand behind all that train, in every split, as in time."""
    return all(train[-1] < test[0] for train, test in splits)


def folds_of_splits(splits: Splits, n_rows: int) -> IntArray | None:
    """The fold of each row, where every split trains on all rows that it does not test.

    `splits`: as `splits_of` gives them.
    Returns: (n_rows,), int64; -1 for rows that no split tests. None for splits that leave rows out
        or test a row twice, and for a single one.
    """
    folds = np.full(n_rows, -1, dtype=np.int64)
    for number, (train, test) in enumerate(splits):
        if len(train) + len(test) < n_rows or (folds[test] >= 0).any():
            return None
        folds[test] = number
    return folds if len(splits) > 1 else None


def _checked_split(pair: Any, number: int, n_rows: int) -> tuple[IntArray, IntArray]:
    """A split as two sorted arrays of distinct row numbers that have no row in common."""
    try:
        given = [np.asarray(part) for part in pair]
    except (TypeError, ValueError):
        given = []
    if len(given) != 2 or any(part.ndim != 1 for part in given):
        raise ValueError(
            f"a split must be a pair of arrays of row numbers (train, test); split {number} of "
            f"validation is {pair!r:.60}"
        )
    for name, part in zip(("train", "test"), given, strict=True):
        where = f"the {name} rows of split {number} of validation"
        if not len(part):
            raise ValueError(f"a split must leave rows to train and rows to test; {where} are none")
        if part.dtype.kind not in "iu":
            way_out = "; give np.flatnonzero of the mask" if part.dtype.kind == "b" else ""
            raise ValueError(
                f"{where} must be row numbers (integers); got dtype {part.dtype}{way_out}"
            )
        if part.min() < 0 or part.max() >= n_rows:
            wrong = part[(part < 0) | (part >= n_rows)][0]
            raise ValueError(f"{where} must be from 0 to {n_rows - 1}; got {wrong}")
        if len(np.unique(part)) < len(part):
            twice = np.flatnonzero(np.bincount(part) > 1)[0]
            raise ValueError(f"{where} must hold a row once; got row {twice} twice")
    train, test = (np.sort(part).astype(np.int64) for part in given)
    shared = np.intersect1d(train, test)
    if len(shared):
        raise ValueError(
            f"a row must either train or test; split {number} of validation has {len(shared):,} "
            f"in both, the first is row {shared[0]}"
        )
    return train, test


def stable_row_hash(seed: int, file_name: str, row_numbers: ArrayLike) -> NDArray[np.uint64]:
    """Hash row numbers so that a row's split never changes with the library or the machine.

    SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014,
    figure 17) from a start given by BLAKE2b of the seed and the file's name.

    `seed`: any integer.
    `file_name`: the file the rows come from, so that equal row numbers of two files differ.
    `row_numbers`: (n,), int; row numbers in the file, from 0.
    Returns: (n,), uint64.
    """
    digest = hashlib.blake2b(f"{seed}\0{file_name}".encode(), digest_size=8).digest()
    start = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
    numbers = np.asarray(row_numbers).astype(np.uint64) + np.uint64(1)
    return scrambled(start + numbers * np.uint64(0x9E3779B97F4A7C15))


def scrambled(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: a bijection that leaves nothing of neighbourhood.

    `state`: (n,), uint64.
    """
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return cast("NDArray[np.uint64]", state ^ (state >> np.uint64(31)))


def split_by_hash(hashes: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Mark the rows whose hash falls in the lowest `fraction` of all hashes.

    A larger fraction keeps every row that a smaller one marked.

    `hashes`: (n,), uint64; from `stable_row_hash`.
    `fraction`: expected share of marked rows, in (0, 1).
    Returns: (n,), bool.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must be above 0 and below 1; got {fraction!r}")
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53 < fraction


def _dense_codes(values: ArrayLike | None, n_rows: int, name: str) -> IntArray:
    """Number the distinct values of an array 0, 1, ...; all 0 for None."""
    if values is None:
        return np.zeros(n_rows, dtype=np.int64)
    array = np.asarray(values)
    _check_length(array, n_rows, name)
    _refuse_missing(array, name)
    if array.dtype == object:
        # Python objects of several types do not sort; their order of appearance will do.
        numbers: dict[Any, int] = {}
        return np.array([numbers.setdefault(v, len(numbers)) for v in array], dtype=np.int64)
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def _checked_time(time: ArrayLike, n_rows: int) -> NDArray[Any]:
    """Times as numbers or datetimes, none missing."""
    array = np.asarray(time)
    _check_length(array, n_rows, "time")
    if array.dtype.kind not in "iufMm":
        raise ValueError(
            f"time must hold numbers or datetimes; got dtype {array.dtype}; convert it first"
        )
    _refuse_missing(array, "time")
    return array


def _check_length(array: NDArray[Any], n_rows: int, name: str) -> None:
    if array.shape != (n_rows,):
        raise ValueError(f"{name} must have shape ({n_rows},), one value a row; got {array.shape}")


def _refuse_missing(array: NDArray[Any], name: str) -> None:
    """Refuse missing values, and name the first."""
    if array.dtype.kind == "M" or array.dtype.kind == "m":
        missing = np.isnat(array)
    elif array.dtype.kind == "f":
        missing = np.isnan(array)
    elif array.dtype == object:
        missing = np.array([v is None or v != v for v in array], dtype=bool)
    else:
        return
    if missing.any():
        raise ValueError(
            f"{name} must have no missing values; got {int(missing.sum())}, the first in row "
            f"{int(missing.argmax())}; fill or drop them"
        )


def _stratified(class_of: IntArray, n_wanted: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A mask of `n_wanted` rows with each class in its share; some of each class stay."""
    counts = np.bincount(class_of)
    quota = counts * (n_wanted / len(class_of))
    taken = np.floor(quota).astype(np.int64)
    # Largest remainder; equal remainders in random order, so that no class is favoured.
    order = rng.permutation(len(counts))
    order = order[np.argsort((taken - quota)[order], kind="stable")]
    taken[order[: n_wanted - int(taken.sum())]] += 1
    taken = np.minimum(taken, counts - 1)
    if not taken.any() and counts.max() > 1:
        taken[counts.argmax()] = 1
    shuffled = rng.permutation(len(class_of))
    shuffled = shuffled[np.argsort(class_of[shuffled], kind="stable")]
    first = np.cumsum(counts) - counts
    rank = np.arange(len(class_of)) - np.repeat(first, counts)
    chosen = np.zeros(len(class_of), dtype=bool)
    chosen[shuffled[rank < np.repeat(taken, counts)]] = True
    return chosen


def _latest(time: NDArray[Any], class_of: IntArray, n_wanted: int) -> NDArray[np.bool_]:
    """A mask of the rows from the time on that is nearest to `n_wanted` rows."""
    values, when = np.unique(time, return_inverse=True)
    if len(values) < 2:
        raise ValueError(
            f"time must hold at least 2 different values to split by; got {len(values)}; "
            "split without time"
        )
    n_later = np.cumsum(np.bincount(when)[::-1])[::-1]
    first_seen = np.full(int(class_of.max()) + 1, len(values))
    np.minimum.at(first_seen, class_of, when)
    # From the last: of two equally good boundaries the later one keeps more training rows.
    boundary = np.arange(len(values) - 1, int(first_seen.max()), -1)
    if len(boundary) == 0:
        raise ValueError(
            f"every class needs a training row before the validation rows; class "
            f"{int(first_seen.argmax())} first appears at the last time, {values[-1]!s}; "
            "drop its rows or split without time"
        )
    best = boundary[np.abs(n_later[boundary] - n_wanted).argmin()]
    return cast("NDArray[np.bool_]", when >= best)


def _class_counts(group_of: IntArray, class_of: IntArray) -> NDArray[np.float64]:
    counts = np.zeros((int(group_of.max()) + 1, int(class_of.max()) + 1))
    np.add.at(counts, (group_of, class_of), 1.0)
    return counts


def _some_groups(
    group_of: IntArray, class_of: IntArray, fraction: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """A mask of whole groups whose classes come near their shares."""
    counts = _class_counts(group_of, class_of)
    if len(counts) < 2:
        raise ValueError("groups must hold at least 2 different groups to split; got 1")
    total = counts.sum(axis=0)
    missing = fraction * total
    spare = total - 1.0
    chosen = np.zeros(len(counts), dtype=bool)

    def excess(group: int) -> float:
        # Change of the class-weighted squared distance to the wanted counts.
        return float((counts[group] * (counts[group] - 2.0 * missing) / total).sum())

    order = rng.permutation(len(counts))
    # First what fits without overshooting any class, then what still brings the counts nearer.
    for overshoot in (False, True):
        for group in order[~chosen[order]]:
            fits = excess(group) < 0.0 if overshoot else (counts[group] <= missing).all()
            if fits and (counts[group] <= spare).all():
                chosen[group] = True
                missing = missing - counts[group]
                spare = spare - counts[group]
    if not chosen.any():
        allowed = [int(group) for group in order if (counts[group] <= spare).all()]
        if not allowed:
            raise ValueError(
                "no group can be set aside: each holds all the rows of some class, and every "
                "class needs a training row; give validation rows of your own"
            )
        chosen[min(allowed, key=excess)] = True
    return chosen[group_of]


def _fold_of_group(
    group_of: IntArray, class_of: IntArray, n_folds: int, rng: np.random.Generator
) -> IntArray:
    """The fold of each group, so that folds have like numbers of each class."""
    counts = _class_counts(group_of, class_of)
    share = counts / counts.sum(axis=0)
    held = np.zeros((n_folds, counts.shape[1]))
    fold_of = np.empty(len(counts), dtype=np.int64)
    # Large groups first, each to the fold that holds least of its classes.
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    for group in order:
        load = held @ share[group]
        fold = int(np.lexsort((held.sum(axis=1), load))[0])
        fold_of[group] = fold
        held[fold] += share[group]
    return fold_of
