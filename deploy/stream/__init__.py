r"""Live masks on video: every mask is shown with its age, and the video never waits for a mask. No torch.

    source -> CaptureThread -> DisplayState -> display and outputs
                   \-> LatestQueue -> InferenceThread -> DisplayState

`session.py` starts the threads, `state/display_state.py` decides what may be shown, `state/latency.py` measures it.
"""
