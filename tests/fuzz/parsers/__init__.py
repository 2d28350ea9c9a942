"""Every file and every answer that somebody else writes, mutated: an EdgeoptError or a right answer, in 10 s and 1 GB.

samples   what is mutated: real files and answers, made here
mutate    what is done to them
doors     what reads them
attempt   one of them at one door, in a process of its own
hunt      as many as there is time for
"""
