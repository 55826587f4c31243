"""Checks that need several processes; ``worker.py`` runs them, ``test_processes.py`` reports them."""
