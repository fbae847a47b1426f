"""Record the test errors in scripts/results, for `keras-resnet reproduce`.

    python scripts/record_results.py

A result is a folder with the recipe and the evaluation of a run. Those of a recipe that is changed
in other fields than its seed are left out. Writes keras_resnet/evaluation/recorded.json.
"""

import json
from dataclasses import replace
from pathlib import Path

from keras_resnet import RECIPES, Run
from keras_resnet.evaluation.reproduce import RECORDED
from keras_resnet.files import read_json, write_text

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    found: dict[str, dict[int, float]] = {}
    for file in sorted(RESULTS.glob("*/evaluation.json")):
        run = Run(file.parent)
        if not run.recipe_file.is_file():
            continue
        recipe = run.recipe()
        named = RECIPES.get(recipe.name)
        if named and replace(recipe, seed=named.seed, data_dir=named.data_dir) == named:
            found.setdefault(recipe.name, {})[recipe.seed] = round(read_json(file)["top1_error"], 2)
    ordered = {name: dict(sorted(found[name].items())) for name in RECIPES if name in found}
    write_text(RECORDED, json.dumps(ordered, indent=2) + "\n")
    print(f"{len(ordered)} recipes, {sum(map(len, ordered.values()))} trainings")


if __name__ == "__main__":
    main()
