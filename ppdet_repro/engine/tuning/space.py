"""The space of a tuner: a YAML file that names values of the config, and for each a range or a list of choices.

LearningRate.base_lr: {low: 0.001, high: 0.1, log: true}
TrainReader.batch_size: {low: 4, high: 16, step: 4}
use_ema: {choices: [true, false]}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import yaml

from ppdet_repro.core.config import Config
from ppdet_repro.core.config.document import COMMAND_LINE
from ppdet_repro.core.config.plan import Plan
from ppdet_repro.core.config.yaml_text import read_yaml
from ppdet_repro.utils.errors import UserError

Value = Union[int, float, bool, str, None]
WORDS = ("low", "high", "log", "step", "choices")


@dataclass(frozen=True)
class Range:
    """The values that a key may have: numbers from `low` to `high`, whole ones if both are whole, or `choices`."""

    low: float = 0
    high: float = 0
    log: bool = False  # the logarithm is uniform, not the number
    step: Optional[float] = None
    choices: Tuple[Value, ...] = ()

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> Sequence[Value]:
        """Values that stand for all, to check them."""
        return self.choices or (self.low, self.high)

    def suggest(self, trial: Any, key: str) -> Value:
        """A value for a trial of Optuna."""
        if self.choices:
            return trial.suggest_categorical(key, self.choices)
        options: Dict[str, Any] = {"log": self.log} if self.step is None else {"step": self.step}
        return (trial.suggest_int if self.whole else trial.suggest_float)(key, self.low, self.high, **options)

    def has(self, value: Any) -> bool:
        """Whether a value is in the range."""
        if self.choices:
            return any(type(value) is type(choice) and value == choice for choice in self.choices)
        number = isinstance(value, int if self.whole else (int, float)) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:
            return False
        return self.step is None or (value - self.low) % self.step == 0


Space = Dict[str, Range]


def read_space(path: Path, load: Callable[[Sequence[str]], Config]) -> Space:
    """Read a space. `load` loads the config with overrides: each end of each range must fit it.

    UserError: the file is missing, has an unknown word, an empty range, or a key that the config does not have.
    """
    try:
        document = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"--space {path}: there is no such file") from None
    if not document.value:
        raise UserError(f"{path}: names no value; a line is such as LearningRate.base_lr: {{low: 0.001, high: 0.1}}")
    space: Space = {}
    for key, node in document.value.items():
        where = f"{node.origin}: {key}"
        space[str(key)] = range_of(node.plain(), where)
        for value in space[str(key)].ends:
            try:
                load([override(str(key), value)])
            except UserError as error:
                reason = " ".join(str(error).replace(f"{COMMAND_LINE}: ", "").split())
                raise UserError(f"{where}: {reason}") from error
    return space


def range_of(given: Any, where: str) -> Range:
    """A range of a file. UserError, which starts with `where`: it is none, or has no values."""
    if not isinstance(given, dict):
        raise UserError(f"{where}: give {{low: A, high: B}}, with log: true or step: C, or {{choices: [A, B, C]}}")
    unknown = [str(word) for word in given if word not in WORDS]
    if unknown:
        raise UserError(f"{where}: unknown word {unknown[0]!r}; known are {', '.join(WORDS)}")
    if "choices" in given:
        choices = given["choices"]
        simple = isinstance(choices, list) and not any(isinstance(choice, (list, dict)) for choice in choices)
        if len(given) > 1 or not simple or not choices:
            raise UserError(f"{where}: choices must be a list of one or more single values, without other words")
        return Range(choices=tuple(choices))
    numbers = [given.get(word) for word in ("low", "high", "step") if word != "step" or given.get("step") is not None]
    if any(isinstance(number, bool) or not isinstance(number, (int, float)) for number in numbers):
        raise UserError(f"{where}: low, high and step must be numbers (write 1.0e-5, not 1e-5)")
    found = Range(given["low"], given["high"], given.get("log", False), given.get("step"))
    if not found.low < found.high:
        raise UserError(f"{where}: the range from {found.low} to {found.high} is empty; low must be less than high")
    if not isinstance(found.log, bool) or (found.log and (found.low <= 0 or found.step is not None)):
        raise UserError(f"{where}: log must be true or false; with true, low must be above 0 and there is no step")
    if found.step is not None and not 0 < found.step <= found.high - found.low:
        raise UserError(f"{where}: step {found.step} must be above 0 and at most high - low")
    if found.step is not None and found.whole and not isinstance(found.step, int):
        raise UserError(f"{where}: step {found.step} must be a whole number, as low and high are")
    return found


def override(key: str, value: Value) -> str:
    """A value for `-o`: drawn numbers have four digits."""
    if not isinstance(value, float) or (len(repr(value)) <= 8 and "e" not in repr(value)):
        return f"{key}={yaml.safe_dump(value).splitlines()[0]}"
    text = f"{value:.4g}"
    return f"{key}={text.replace('e', '.0e') if 'e' in text and '.' not in text else text}"


def own_values(cfg: Config, space: Mapping[str, Range]) -> Optional[Dict[str, Value]]:
    """What a config has at the keys of a space; None if a value is not in its range."""
    found: Dict[str, Value] = {}
    for key, values in space.items():
        items: Any = cfg.tree()
        for name in key.split("."):
            items = items.get(name) if isinstance(items, dict) else None
            value = None if items is None else items.value
            items = value.settings if isinstance(value, Plan) else value
        if not values.has(items):
            return None
        found[key] = items
    return found


def overrides_of(params: Mapping[str, Value]) -> List[str]:
    """The values of a trial for `-o`."""
    return [override(key, value) for key, value in params.items()]
