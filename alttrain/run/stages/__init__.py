"""The stages of a run, a module each, with one function of the module's name.

It takes the run and its session, and skips finished work. Modules are imported when their stage begins.
"""
