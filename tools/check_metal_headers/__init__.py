"""Are the stand-in's headers Apple's? Compares them with what Apple and PyObjC have published."""
