"""`dstc evaluate`, in its parts."""
