import json
import sys

import numpy as np

width, steps, batch, seed = map(int, sys.argv[1:5])
rng = np.random.default_rng(seed)
scale = np.arange(1, 1025) ** -0.75  # the model sees the first `width` of 1024 features


def draw(num_samples):
    x = rng.standard_normal((num_samples, 1024)) * scale
    return x[:, :width], x.sum(1)


weights = np.zeros(width)
for step in range(steps):
    x, y = draw(batch)
    weights -= 0.3 * (1 - step / steps) * x.T @ (x @ weights - y) / batch
x, y = draw(8192)
with open(f"{sys.argv[5]}/result.json", "w") as file:
    json.dump({"loss": np.mean((x @ weights - y) ** 2)}, file)
