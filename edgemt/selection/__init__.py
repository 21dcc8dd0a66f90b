"""`edgemt select`: which images to label next. Features (`features`), the choice (`choose`), the files (`write`)."""
