"""Live masks: frames from a source, masks that say how old they are, video that never waits. No torch.

    source -> capture -> board -> display and outputs
                  \\-> one-slot mailbox -> inference -> board

`session.py` starts the threads, `board.py` judges what may be shown, `delays.py` measures it.
"""
