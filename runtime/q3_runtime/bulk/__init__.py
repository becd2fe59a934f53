"""``q3 bulk``: files of texts → Parquet files of vectors, resumable to the row.

The promise: every row of the input ends as embedded or as quarantined with a reason, once; whatever is killed, the same command
goes on, and what comes out has the same bytes. The files in reading order:

    run         the whole of it: begin, hand out, check
    job         what is to be done, and the id of it, which every part carries
    beginning   a job, begun or gone on with
    folder      names of the files in OUT
    sources     paths, folders, globs → files of a known format
    records     a row: its text and id, or what is wrong with it
    readers, parquet_rows   a file → its rows, from any row on: a generator a format
    planning    files → tasks of some thousand rows
    duplicates  ids that stand twice, found on disk
    tasks       the plan, read back
    worker      a task → a part, in a process that holds the model
    parts       a part: written, given its name, read, checked
    attempts    how often a task was begun, and which of its rows kills whoever computes it
    leases      one run at a time
    local, ray_engine   who runs the tasks: processes of this machine, or Ray
    finishing   all parts, checked → manifest.json and _SUCCESS
    compacting  many parts → few files
"""
