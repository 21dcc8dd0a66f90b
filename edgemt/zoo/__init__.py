"""Trained students that come with the package, in `students/zoo/NAME`.

`edgemt.zoo.entry` opens one, `edgemt.zoo.warm_start` initialises a new student from one, `edgemt.zoo.synthetic_frames`
makes frames without patient data. `edgemt.pipeline.pack_student` writes an entry, `edgemt.pipeline.export_student`
makes the deployable graphs of one.
"""
