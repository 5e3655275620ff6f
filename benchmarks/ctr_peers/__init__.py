"""FuxiCTR's and DeepCTR-Torch's LR, DIN and DIEN on our samples, in an environment of their own.

``process`` runs in our environment and starts ``worker`` in that of the peers, which ``environment`` makes. ``arrays``
turns samples into what both libraries read; ``fuxi`` and ``deepctr`` build their models; ``training`` is the loop.

Legend: R rows of a split, B rows of a batch, T the longest history, W the most tokens of a text column.
"""
