"""Worker processes: each conversion and each proof runs in a process of its own, so that a crash costs one target alone.

    main process ── WorkerHost (client.py)
        │  control socket: start, kill / exited               process.py <-> host.py
        └─ host process: imports the heavy libraries once, then forks
            └─ child per task, with a socket straight to the main process    running.py <-> child.py

Requests and answers are JSON, arrays are raw bytes (protocol.py): nothing is ever unpickled.
"""
