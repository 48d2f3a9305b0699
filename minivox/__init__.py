"""MiniVox: a synthetic world of persons with a face and a voice, its ceilings, and the data and models made from it.

See :mod:`minivox.world` for the causal graph, :mod:`minivox.ceilings` for what anybody could know,
:mod:`minivox.dataset` for the shipped data, and ``python -m minivox.build`` for making everything from nothing.
"""
