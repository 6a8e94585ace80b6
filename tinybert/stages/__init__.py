"""The steps of the pipeline. Each is a function of directories: it reads its inputs and writes only `out`."""
