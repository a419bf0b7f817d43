"""A meeting-notes service in FastAPI, with the pool around it. Its keys and teams are in an SQLite file.

- ``notes.py``: the service as it was before; it knows nothing of the pool.
- ``app.py``: the pool around it.
- ``live/``: a page with live transcription.
- ``store.py``: the keys and teams in SQLite, and the two functions that the pool asks.
- ``manage.py``: the command line for that file.
"""
