"""The tasks a worker can run: names to ``module:function``."""

TASKS = {
    "convert": "edgeopt.tasks:convert",
    "inspect": "edgeopt.tasks:inspect",
    "check": "edgeopt.tasks:check",
    "predict": "edgeopt.tasks:predict",
    "time": "edgeopt.tasks:time_against_twin",
}
