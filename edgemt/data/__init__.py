"""Cases on disk, how they are split and decoded, and the two-stream batches made of them.

`cohort.split_dataset` lists and splits a data set, `slice_dataset` and `volume_dataset` make batches. Importing this
package loads no torch.
"""
