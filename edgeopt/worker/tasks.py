"""The tasks a worker can run: names to ``module:function``."""

TASKS = {
    "convert": "edgeopt.pipeline.tasks:convert",
    "inspect": "edgeopt.pipeline.tasks:inspect",
    "check": "edgeopt.pipeline.tasks:check",
    "predict": "edgeopt.pipeline.tasks:predict",
    "time": "edgeopt.pipeline.tasks:time_against_twin",
}
