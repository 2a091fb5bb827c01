"""The command `trionode`, one module for each group of commands, imported when a command of it runs.

Exit statuses of all commands: 0 success; 1 failure; 2 wrong usage; 3 no node answers
(`status`, `drain`, `reload`); 4 damage was found and repaired (`verify --repair`).
"""
