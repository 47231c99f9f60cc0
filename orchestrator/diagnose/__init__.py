"""What was seen of a job -> what is wrong in words, and what a person can do about it. Pure: no cluster, no clock.

job.py asks all others. Each function of these knows one kind of trouble by what Kubernetes, Kueue or the coordinator says
about it, and returns None where it is not that: admission.py (before there are pods), scheduling.py (no node), starting.py
(no container), ending.py (ended, lost, taken away), training.py (agents run, training does not). remedy.py is for all.
"""
