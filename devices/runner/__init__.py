"""The program that measures on the device: pushed there as one zip file, run as ``python3 runner.zip job.json``.

Standard library only, Python 3.8 or newer, nothing of the rest of edgeopt: what it imports beyond that is the runtime that
it finds on the device. It reads its job (job.py) and writes what it finds as JSON lines (lines.py), each flushed at once, so
that a killed run keeps what it measured::

    job.py --> main.py --> runtimes/ (loads the artifact) --> measure.py | predict.py --> lines.py

``edgeopt.devices.session.runner_archive`` packs this folder. The events, in the order in which they come (times in
nanoseconds where a name ends in ``_ns``, memory in bytes; what the device does not tell is null):

- ``runtime``: name, versions, python, machine, system, cpus (those that the process may use), load average
- ``loaded``: import_ns, ns (the artifact's own load), threads (the runtime's own setting)
- ``first``: ns of the first inference, process_threads afterwards
- ``warm``: runs, ns and whether the times were stable when the warm-up ended
- ``samples``: t_ns (since the phase began), ns (a list, raw, in order), cpu_ns (of all threads), preempted (how often the
  system took the CPU away: with one thread, cpu_ns far below the sum of ns means that others were at work); many
- ``environment``: t_ns, frequencies_khz by CPU, temperatures_c by zone, workload_ns (a fixed piece of Python); between samples
- ``phase``: name, runs, ns, stopped_by; after the samples of ``burst``, and after the windows of ``sustained``
- ``sustained``: t_ns, ns_total, runs, ns (raw, evenly thinned where there are many); one for each window
- ``memory``: start, imported, loaded, warm, end, peak; growth over the timed phase; series
- ``outputs``: files with name, dtype, shape, bytes, offset, sha256, not_finite; whether the last run gave what the first gave
- ``placement``: accelerator, accelerated and fallback (counts of operators, null where the runtime does not tell), operators
  (of the fallback, by kind)
- ``prediction``: sample, ns, outputs (in mode ``predict``)
- ``operators``: for each operator its kind, name, provider, runs and mean_ns (in mode ``operators``)
- ``error``: kind (load, run, memory, disk_full, read_only, missing_runtime, no_accelerator, bad_job, fallback, delegate)
  and message; nothing follows it
- ``end``: the run is complete; only then is the exit code 0
"""
