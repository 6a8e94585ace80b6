"""Distils a BERT teacher into a TinyBERT student: pure functions of directories, no orchestrator."""
