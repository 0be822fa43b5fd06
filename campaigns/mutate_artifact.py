"""Does any damaged or doctored artifact get past the reader, or break it?

Three families of mutants of a small artifact are read back:

- every change of a single byte (255 for each place) and every truncation: each must be refused;
- bytes cut, doubled, moved and overwritten at random: each must be refused;
- doctored files, whose lengths, offsets and digest are made right again after the change: each
  must be refused, or be exactly what `pack` writes of the content that was read (then it is a
  valid artifact, and the schema of the rooms decides).

A refusal is an `ArtifactError`; any other exception, and memory past a limit, is a failure.

    python -m campaigns.mutate_artifact                      # all single bytes, 100,000 mutants
    python -m campaigns.mutate_artifact --model m.safetensors --mutants 20000

With ``--model`` the mutants are of that file and are loaded as a whole model; a changed model that
loads must then predict finite numbers.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tabwright.artifact.container import pack, unpack
from tabwright.errors import ArtifactError

Verdict = str
Load = Callable[[bytes], Verdict]

NASTY: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    10**30,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 10_001,
    "../../etc/passwd",
    "os.system",
    "__import__('os').abort()",
    "\ud800",
    "\x00",
    "F32",
    "U8",
    [],
    {},
    [0],
    [0, 0],
    [-8, 8],
    [2**62, 2**62, 4],
    {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
)


def small_artifact() -> bytes:
    """A file with every kind of thing an artifact holds, in about 900 bytes."""
    document = {
        "settings": {"mode": "mlp_dense", "dropout": 0.1, "layers": 2, "seed": None},
        "columns": [{"name": "größe", "used": True, "scale": 1e-3}],
    }
    tensors = {
        "member.0.weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
        "scale": np.array([0.5, 2.0]),
        "levels": np.frombuffer(b"abc", dtype=np.uint8),
        "hidable": np.array([True, False]),
    }
    return pack(document, tensors)


def load_generic(data: bytes) -> Verdict:
    """Read with `unpack`; what is accepted must be the one spelling of its content."""
    try:
        document, tensors = unpack(data, "mutant")
    except ArtifactError:
        return "refused"
    if pack(document, tensors) != data:
        raise AssertionError("accepted, but not as `pack` writes it")
    return "accepted"


def load_whole(data: bytes) -> Verdict:
    """Read as a whole model; what is accepted must predict finite numbers."""
    from tabwright.encoding.encoder import Compact
    from tabwright.inference.fitted_model import FittedModel
    from tabwright.inference.predictor import Predictor

    try:
        model = FittedModel.from_artifact(*unpack(data, "mutant"))
    except ArtifactError:
        return "refused"
    row = model.encoder.expand(model.encoder.row(dict.fromkeys(model.encoder.feature_names_in_)))
    if row.shape != (1, model.architecture.input_dim) or not np.isfinite(row).all():
        raise AssertionError("accepted, but the encoder is broken")
    # A row of missing values reaches every part without a table.
    missing = model.encoder.transform(_missing_row(model.encoder.feature_names_in_))
    predictor = Predictor(model)
    # Numbers of every size take the trees down many ways.
    n_rows, draw = 8, np.random.default_rng(0)
    numeric = np.repeat(missing.numeric, n_rows, axis=0)
    numeric[1:] = 10.0 ** draw.integers(-2, 3) * draw.normal(size=numeric[1:].shape)
    output = predictor.network(Compact(numeric, np.repeat(missing.codes, n_rows, axis=0)))
    if model.classes is not None:
        output = predictor.calibrated(output)
    if not np.isfinite(output).all():
        raise AssertionError("accepted, but the predictions are not finite")
    return "accepted"


def _missing_row(names: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({str(name): [None] for name in names})


def single_byte_changes(data: bytes, *, step: int = 1) -> Iterator[bytes]:
    """Every place changed to every other value (or every `step`-th of these)."""
    for number in range(0, len(data) * 255, step):
        place, change = divmod(number, 255)
        mutant = bytearray(data)
        mutant[place] ^= change + 1
        yield bytes(mutant)


def truncations(data: bytes) -> Iterator[bytes]:
    """Every true beginning of the file, the empty one included."""
    for size in range(len(data)):
        yield data[:size]


def scrambled(data: bytes, rng: random.Random) -> bytes:
    """One random act on the bytes."""
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    part = data[a:b]
    act = rng.randrange(6)
    if act == 0:
        return data[:a] + data[b:]
    if act == 1:
        return data[:b] + part + data[b:]
    if act == 2:
        c = rng.randrange(len(data) + 1)
        return data[:c] + part + data[c:]
    if act == 3:
        return data[:a] + rng.randbytes(b - a) + data[b:]
    if act == 4:
        return data + rng.randbytes(rng.randrange(1, 64))
    mutant = bytearray(data)
    for _ in range(rng.randrange(2, 9)):
        mutant[rng.randrange(len(mutant))] = rng.choice(b'\x00\xff"{}[],:\\0189aeE-+. ')
    return bytes(mutant)


def doctored(data: bytes, rng: random.Random) -> bytes:
    """One to three changes of the content, with length and digest put right again."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    body = bytearray(data[8 + size :])
    envelope = json.loads(header.pop("__metadata__")["tabwright"])
    entries: list[tuple[str, Any]] = list(header.items())
    for _ in range(rng.randrange(1, 4)):
        act = rng.randrange(8)
        if act <= 2:
            _change(envelope["document"] if rng.random() < 0.9 else envelope, rng)
        elif act == 3 and entries:
            _change(entries[rng.randrange(len(entries))][1], rng)
        elif act == 4 and entries:
            index = rng.randrange(len(entries))
            name = rng.choice(["../x", "/x", "x\x00", "", "é", "__x__", "a" * 201, "zz", "scale"])
            entries[index] = (name, entries[index][1])
        elif act == 5 and entries:
            entry = copy.deepcopy(rng.choice(entries))
            entries.insert(rng.randrange(len(entries) + 1), entry)
        elif act == 6 and entries:
            entries.pop(rng.randrange(len(entries)))
        elif body:
            place = rng.randrange(len(body)) & ~3
            # NaN, infinity, the largest float32 and its negative, another NaN, zero.
            numbers = ("0000c07f", "0000807f", "ffff7f7f", "ffff7fff", "ffffffff", "00000000")
            # Small integers: other nodes, features and leaves of trees.
            places = ("01000000", "02000000", "05000000", "1d000000", "0a010000")
            nasty = bytes.fromhex(rng.choice(numbers + places))
            body[place : place + 4] = nasty[: len(body) - place]
        if "document" not in envelope:
            break
    return _assemble(envelope, entries, bytes(body), rng)


def _change(node: Any, rng: random.Random) -> None:
    """Change, drop, double or add one value somewhere below `node`."""
    while isinstance(node, dict | list):
        inner = node.values() if isinstance(node, dict) else node
        deeper = [value for value in inner if isinstance(value, dict | list) and value]
        if not deeper or rng.random() < 0.3:
            break
        node = rng.choice(deeper)
    if isinstance(node, dict) and node:
        key = rng.choice(list(node))
        act = rng.randrange(5)
        if act == 0:
            del node[key]
        elif act == 1:
            other = rng.choice(["extra", "", "__class__", "\ud800", key + "_"])
            node[other] = _nudged(None, rng)
        else:
            node[key] = _nudged(node[key], rng)
    elif isinstance(node, list) and node:
        index = rng.randrange(len(node))
        act = rng.randrange(5)
        if act == 0:
            del node[index]
        elif act == 1:
            node.append(copy.deepcopy(node[index]))
        else:
            node[index] = _nudged(node[index], rng)


def _nudged(value: Any, rng: random.Random) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.5:
        return rng.choice([value + 1, value - 1, -value, value * 2, float(value), value * 1000])
    return copy.deepcopy(rng.choice(NASTY))


def _assemble(
    envelope: Any, entries: list[tuple[str, Any]], body: bytes, rng: random.Random
) -> bytes:
    sort = rng.random() < 0.95

    def text_of(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, sort_keys=sort, separators=(",", ":"))

    def header_of(digest: str) -> bytes:
        if isinstance(envelope, dict) and "sha256" in envelope:
            envelope["sha256"] = digest
        parts = ['"__metadata__":' + text_of({"tabwright": text_of(envelope)})]
        for name, entry in entries:
            if isinstance(entry, dict):
                order = ("dtype", "shape", "data_offsets")
                keys = [key for key in order if key in entry]
                keys += [key for key in entry if key not in order]
                inner = ",".join(f"{json.dumps(key)}:{text_of(entry[key])}" for key in keys)
                parts.append(text_of(name) + ":{" + inner + "}")
            else:
                parts.append(text_of(name) + ":" + text_of(entry))
        raw = ("{" + ",".join(parts) + "}").encode("utf-8", "surrogatepass")
        raw += b" " * (-len(raw) % 8)
        return len(raw).to_bytes(8, "little") + raw

    digest = hashlib.sha256(header_of("0" * 64) + body).hexdigest()
    return header_of(digest) + body


def structured_mutants(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """`count` mutants, a quarter scrambled and the rest doctored, the same for the same seed."""
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        yield scrambled(data, rng) if number % 4 == 0 else doctored(data, rng)


def run(name: str, mutants: Iterator[bytes], original: bytes, load: Load) -> Counter[Verdict]:
    """Load every mutant; the first failure is saved beside the working folder and raised."""
    verdicts: Counter[Verdict] = Counter()
    start = time.perf_counter()
    for mutant in mutants:
        if mutant == original:
            verdicts["unchanged"] += 1
            continue
        try:
            verdicts[load(mutant)] += 1
        except BaseException:
            Path("failing_mutant.bin").write_bytes(mutant)
            print(f"{name}: failure; the mutant is in failing_mutant.bin", file=sys.stderr)
            raise
    print(f"{name}: {dict(verdicts)} in {time.perf_counter() - start:.1f} s")
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a saved model; default: a small artifact")
    parser.add_argument("--mutants", type=int, default=100_000)
    parser.add_argument("--step", type=int, default=1, help="every n-th single-byte change")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory-mib", type=int, default=1024, help="growth that is a failure")
    arguments = parser.parse_args()
    load: Load = load_generic
    data = small_artifact()
    if arguments.model is not None:
        load, data = load_whole, arguments.model.read_bytes()
    print(f"original: {len(data)} bytes")
    if load(data) != "accepted":
        print("failure: the original is refused, so its mutants tell nothing", file=sys.stderr)
        return 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    changes = run("single bytes", single_byte_changes(data, step=arguments.step), data, load)
    cuts = run("truncations", truncations(data), data, load)
    if changes["accepted"] or cuts["accepted"]:
        print("failure: a damaged file was accepted", file=sys.stderr)
        return 1
    run("mutants", structured_mutants(data, arguments.mutants, arguments.seed), data, load)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - before
    print(f"peak memory grew by {grown} MiB")
    return int(grown > arguments.memory_mib)


if __name__ == "__main__":
    sys.exit(main())
